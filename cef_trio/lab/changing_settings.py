"""Settings that change between the daemons of a simulated world.

They have a random generator of their own, so that they do not change a seed's writers and injections.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from cef_trio.checkpoint.states import Status
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scheduler import derived
from cef_trio.lab.world import AUTO_PART_SIZE, BUCKET, OTHER_BUCKET, PART, World
from cef_trio.s3.config import ChecksumMode

_SHARE: Final = 0.2
"""Share of the worlds whose settings change."""
_AUTO_SHARE: Final = 0.4
"""Share of the changes of the part size after which it is ``auto``."""
_TEMPLATES: Final = (
    "streams/{stream_id}/{file_name}",
    "streams/other/{stream_id}/{file_name}",
    "elsewhere/{stream_id}",
)
_LONG_TEMPLATE: Final = "by/{relative_dir}/{year}-{month}-{day}/{hour}/{file_stem}-{stream_id}{file_ext}"
_LONG_SHARE: Final = 0.25
SETTINGS: Final = ("part size", "equal parts", "checksum", "key template", "bucket")


@dataclass(frozen=True, slots=True)
class ChangingSettings:
    """The settings that change."""

    seed: int
    changing: frozenset[str] = frozenset()
    """Some of :data:`SETTINGS`."""

    @classmethod
    def of(cls, seed: int, *, gentle: bool) -> ChangingSettings:
        """Return those of a seed; in a gentle world the bucket does not change."""
        random = Random(derived(seed, "settings"))  # noqa: S311 - to be repeated, not secret
        if random.random() >= _SHARE:
            return cls(seed)
        possible = SETTINGS[:-1] if gentle else SETTINGS
        return cls(seed, frozenset(random.sample(possible, random.randint(1, 3))))

    @property
    def may_end(self) -> frozenset[Status]:
        """Final statuses of a stream whose object is complete in another bucket; `retry` resumes it."""
        return frozenset({Status.FAILED_FINALIZATION}) if "bucket" in self.changing else frozenset()

    @property
    def changes_part_sizes(self) -> bool:
        """Whether parts may be longer than a changed block."""
        return not self.changing.isdisjoint({"part size", "equal parts"})

    def between(self, context: ScenarioContext, life: int) -> None:
        """Set the settings of the daemon of that number."""
        random, world = Random(derived(self.seed, "settings", life)), context.world  # noqa: S311 - as above
        for setting in SETTINGS:
            if setting not in self.changing:
                continue
            before = _settings_of(world)
            match setting:
                case "part size":
                    world.part_size = random.choice((PART // 2, PART, 3 * PART // 2))
                    coin = Random(derived(self.seed, "auto part size", life)).random()  # noqa: S311 - as above
                    world.auto_part_size = AUTO_PART_SIZE if coin < _AUTO_SHARE else None
                case "equal parts":
                    world.equal_parts = random.random() < 0.5  # noqa: PLR2004 - a coin
                case "checksum":
                    world.checksum = random.choice(list(ChecksumMode))
                case "key template":
                    template = random.choice(_TEMPLATES)
                    coin = Random(derived(self.seed, "long template", life)).random()  # noqa: S311 - as above
                    world.key_template = _LONG_TEMPLATE if coin < _LONG_SHARE else template
                case _:
                    world.bucket = random.choice((BUCKET, OTHER_BUCKET))
            context.hits[f"setting: {setting}"] += before != _settings_of(world)


def _settings_of(world: World) -> tuple[object, ...]:
    sizes = (world.part_size, world.auto_part_size, world.equal_parts)
    return (*sizes, world.checksum, world.key_template, world.bucket)
