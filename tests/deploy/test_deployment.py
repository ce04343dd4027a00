"""The files of ``deploy/`` agree with the code and with each other: settings, ports, times, rights."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
from servers.deployment import DEPLOY, ROOT, Unit, documents, environment, of_kubernetes, unit, value, values

import cef_trio
from cef_trio.cli.health import DEFAULT_PORT
from cef_trio.media.ffprobe import MAX_AT_ONCE, MAX_DATA_BYTES
from cef_trio.settings.model import Settings
from cef_trio.settings.secret_files import file_variables

SERVICE: Final = unit(DEPLOY / "systemd" / "cef-trio.service")
QUADLET: Final = unit(DEPLOY / "quadlet" / "cef-trio.container")
VALKEY_QUADLET: Final = unit(DEPLOY / "quadlet" / "cef-trio-valkey.container")
COMPOSE: Final = documents(DEPLOY / "compose.yaml")[0]
CONTAINERFILE: Final = (ROOT / "Containerfile").read_text()
POD: Final = of_kubernetes("StatefulSet")["spec"]["template"]["spec"]
KUBERNETES: Final = POD["containers"][0]
UID: Final = 1001
DAEMON_BYTES: Final = 128 * 1024 * 1024
"""What the daemon itself needs, with room: some 100 MiB."""
SECRETS_UNIT: Final = unit(DEPLOY / "systemd" / "secrets.conf")
SECRET_FILES: Final = set(file_variables(Settings).values())
SETTINGS: Final = {name.upper() for name in Settings.model_fields} | SECRET_FILES | {"PROM_HOST", "PROM_PORT"}
"""The last two are read by ``cef-trio health`` itself too, which loads no settings."""


def p4_seconds() -> float:
    """How long an exit may take with the default settings."""
    fields = Settings.model_fields
    return float(fields["shutdown_grace_seconds"].default + fields["shutdown_save_seconds"].default + 1)


def seconds(text: str | int) -> float:
    match = re.fullmatch(r"(\d+)s?", str(text))
    assert match, text
    return float(match[1])


def podman_argument(name: str) -> str:
    (found,) = re.findall(rf"--{name}=(\S+)", " ".join(values(QUADLET, "Container", "PodmanArgs")))
    return str(found)


def variables() -> dict[str, dict[str, str]]:
    """The settings that each file gives to the daemon."""
    image = re.findall(r"^(?:ENV|   ) ([A-Z_]+)=(\S+)", CONTAINERFILE, re.MULTILINE)
    return {
        "Containerfile": dict(image),
        "cef-trio.service": environment(SERVICE, "Service"),
        "cef-trio.container": environment(QUADLET, "Container"),
        "compose.yaml": COMPOSE["services"]["cef-trio"]["environment"],
        "kubernetes.yaml": {**of_kubernetes("ConfigMap")["data"], **{item["name"]: "" for item in KUBERNETES["env"]}},
    }


def health_command() -> dict[str, list[str]]:
    (image,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    return {
        "Containerfile": json.loads(image),
        "cef-trio.container": value(QUADLET, "Container", "HealthCmd").split(),
        "compose.yaml": COMPOSE["services"]["cef-trio"]["healthcheck"]["test"][1:],
    }


# -- settings and ports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", list(variables()))
def test_only_settings_are_set_that_exist(file: str) -> None:
    given = set(variables()[file])
    assert given
    assert {name for name in given if not name.startswith("PYTHON")} - {"PATH"} <= SETTINGS


@pytest.mark.parametrize("file", list(variables()))
def test_what_is_set_is_valid(file: str) -> None:
    needed = {"WATCH_DIR": "/recordings", "S3_BUCKET_NAME": "recordings"}
    given = {**needed, **{name: text for name, text in variables()[file].items() if text}}
    fields = {name.lower(): text for name, text in given.items() if name.lower() in Settings.model_fields}
    if "s3_secret_access_key" not in fields:
        fields.pop("s3_access_key_id", None)
    assert Settings(_env_file=None, **fields).app_env == "production"  # type: ignore[call-arg, arg-type]


def test_the_secrets_that_kubernetes_is_to_make_are_files_that_settings_name() -> None:
    text = (DEPLOY / "kubernetes.yaml").read_text()
    made = set(re.findall(r"--from-file=([a-z0-9-]+)", text))
    (mount,) = (mount for mount in KUBERNETES["volumeMounts"] if mount["name"] == "secrets")
    (volume,) = (volume for volume in POD["volumes"] if volume["name"] == "secrets")
    assert volume["secret"]["secretName"] == re.findall(r"create secret generic (\S+)", text)[0]
    assert volume["secret"]["defaultMode"] == 0o444
    given = {name: path for name, path in of_kubernetes("ConfigMap")["data"].items() if name in SECRET_FILES}
    assert len(made) == 3
    assert sorted(given.values()) == [f"{mount['mountPath']}/{name}" for name in sorted(made)]
    assert_named_after(given)


def test_the_quadlet_mounts_the_secrets_that_settings_name_for_its_user_alone() -> None:
    given = {name: path for name, path in environment(QUADLET, "Container").items() if name in SECRET_FILES}
    names = []
    for line in values(QUADLET, "Container", "Secret"):
        name, *options = line.split(",")
        assert options == [f"uid={UID}", f"gid={UID}", "mode=0400"]
        names.append(name)
    assert sorted(given.values()) == [f"/run/secrets/{name}" for name in sorted(names)]
    assert_named_after(given)
    # What is said to be made is made, by the same names.
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"podman secret create (\S+) -", operations)) == set(names)


def test_systemd_loads_the_credentials_that_settings_name() -> None:
    given = environment(SECRETS_UNIT, "Service")
    loaded = dict(line.split(":", 1) for line in values(SECRETS_UNIT, "Service", "LoadCredential"))
    assert given.keys() <= SECRET_FILES
    assert sorted(given.values()) == [f"%d/{name}" for name in sorted(loaded)]
    assert loaded == {name: f"/etc/cef-trio/secrets/{name}" for name in loaded}
    assert_named_after(given)


def assert_named_after(given: dict[str, str]) -> None:
    """Each file is called as the setting is: two that were mixed up would be noticed by S3 alone."""
    assert given
    for variable, path in given.items():
        assert path.endswith(variable.removesuffix("_FILE").lower().replace("_", "-")), variable


def test_no_file_holds_a_secret() -> None:
    for path in filter(Path.is_file, DEPLOY.rglob("*")):
        text = re.sub(r"\$\{.*?\}", "$", path.read_text())
        for name, given in re.findall(r"\b([A-Z0-9_]*(?:PASSWORD|SECRET)[A-Z_]*)[:=] ?(\S*)", text):
            names_a_file = name.endswith("_FILE")
            assert given.startswith(("$", "…")) or names_a_file or not given, f"{path.name}: {name}"


def test_the_access_key_of_compose_is_in_no_other_name_so_that_the_log_stays_readable() -> None:
    key = COMPOSE["services"]["cef-trio"]["environment"]["S3_ACCESS_KEY_ID"]
    command = COMPOSE["services"]["s3"]["command"]
    assert command[command.index("--access-key") + 1] == key
    named = [COMPOSE["name"], *COMPOSE["services"], *COMPOSE["volumes"], "localhost/cef-trio"]
    assert not [name for name in named if key in name]


def test_compose_asks_for_what_its_example_names() -> None:
    asked = set(re.findall(r"\$\{([A-Z0-9_]+):\?", (DEPLOY / "compose.yaml").read_text()))
    named = set(re.findall(r"^([A-Z0-9_]+)=$", (DEPLOY / "example.env").read_text(), re.MULTILINE))
    assert asked == named
    assert "${" not in re.sub(r"\$\{[A-Z0-9_]+:\?", "", (DEPLOY / "compose.yaml").read_text())


def test_one_port_everywhere() -> None:
    port = str(DEFAULT_PORT)
    given = variables()
    for file in ("cef-trio.container", "compose.yaml", "kubernetes.yaml"):
        assert given[file]["PROM_PORT"] == port, file
        assert given[file]["PROM_HOST"] == "0.0.0.0", file
    assert re.findall(r"^EXPOSE (\d+)$", CONTAINERFILE, re.MULTILINE) == [port]
    assert value(QUADLET, "Container", "PublishPort") == f"127.0.0.1:{port}:{port}"
    assert COMPOSE["services"]["cef-trio"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert [entry["containerPort"] for entry in KUBERNETES["ports"]] == [DEFAULT_PORT]
    assert [entry["port"] for entry in of_kubernetes("Service")["spec"]["ports"]] == [DEFAULT_PORT]
    (scrape,) = documents(DEPLOY / "prometheus" / "prometheus.yml")[0]["scrape_configs"]
    assert scrape["job_name"] == "cef-trio"
    assert scrape["static_configs"] == [{"targets": [f"cef-trio:{port}"]}]


def test_nothing_is_published_beyond_the_loopback() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert len(published) == 3
    for port in published + values(QUADLET, "Container", "PublishPort"):
        assert port.startswith("127.0.0.1:")


def test_the_health_is_asked_in_one_way() -> None:
    commands = health_command()
    assert len(commands) == 3
    assert set(map(tuple, commands.values())) == {("cef-trio", "health")}
    paths = {KUBERNETES[probe]["httpGet"]["path"] for probe in ("livenessProbe", "startupProbe")}
    assert paths == {"/healthz"}
    assert KUBERNETES["readinessProbe"]["httpGet"]["path"] == "/readyz"


# -- the end: P4 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "given"),
    [
        ("systemd", value(SERVICE, "Service", "TimeoutStopSec")),
        ("podman", podman_argument("stop-timeout")),
        ("compose", COMPOSE["services"]["cef-trio"]["stop_grace_period"]),
        ("kubernetes", POD["terminationGracePeriodSeconds"]),
    ],
)
def test_p4_no_process_is_killed_before_the_daemon_has_had_its_time(where: str, given: str | int) -> None:
    assert p4_seconds() < seconds(given) <= p4_seconds() + 5, where


@pytest.mark.parametrize(
    ("where", "memory", "processes"),
    [
        ("systemd", value(SERVICE, "Service", "MemoryMax"), value(SERVICE, "Service", "TasksMax")),
        ("quadlet", podman_argument("memory"), podman_argument("pids-limit")),
        ("compose", COMPOSE["services"]["cef-trio"]["mem_limit"], COMPOSE["services"]["cef-trio"]["pids_limit"]),
        ("kubernetes", KUBERNETES["resources"]["limits"]["memory"].removesuffix("i"), None),  # its pods have a limit
    ],
)
def test_p7_the_daemons_cgroup_holds_it_and_all_the_ffprobes_that_run_at_once(
    where: str, memory: str, processes: str | int | None
) -> None:
    """So no hostile recording makes the kernel look for whom to end: Kubernetes ends all that is in the container."""
    assert (
        float(memory[:-1]) * {"g": 2**30, "m": 2**20}[memory[-1].lower()] >= MAX_AT_ONCE * MAX_DATA_BYTES + DAEMON_BYTES
    )
    assert processes is None or 64 <= int(processes) <= 1024, where


def test_p4_systemd_gives_podman_the_time_that_podman_gives_the_daemon() -> None:
    assert seconds(value(QUADLET, "Service", "TimeoutStopSec")) > seconds(podman_argument("stop-timeout"))


def test_the_end_is_asked_for_by_a_signal_that_the_daemon_takes() -> None:
    assert re.findall(r"^STOPSIGNAL (\w+)$", CONTAINERFILE, re.MULTILINE) == ["SIGTERM"]
    assert COMPOSE["services"]["cef-trio"]["stop_signal"] == "SIGTERM"
    assert values(SERVICE, "Service", "KillSignal") == []  # SIGTERM is systemd's own


def test_a_reload_is_asked_for_by_the_signal_that_the_daemon_takes_for_it_and_reads_a_file_that_it_may_read() -> None:
    # By the shell's own kill: Debian's program of that name is in procps, which a small system lacks.
    assert value(SERVICE, "Service", "ExecReload") == '/bin/sh -c "kill -HUP $MAINPID"'
    assert value(QUADLET, "Service", "ExecReload").endswith("podman kill --signal HUP cef-trio")
    # The environment wins and does not change: what is to change stands in .env, in the daemon's folder.
    assert value(SERVICE, "Service", "WorkingDirectory") == "-/etc/cef-trio/live"
    assert "WORKDIR /etc/cef-trio" in CONTAINERFILE
    for name, given in variables().items():
        assert not {"MAX_UPLOAD_RATE", "LOG_LEVEL"} & set(given), name


def test_a_start_may_take_as_long_as_redis_and_s3_are_away() -> None:
    for name, lines in (("systemd", SERVICE), ("quadlet", QUADLET)):
        assert value(lines, "Service", "TimeoutStartSec") == "infinity", name
        assert value(lines, "Unit", "StartLimitIntervalSec") == "0", name


def test_a_daemon_that_ended_badly_is_started_again_whatever_its_exit_code_was() -> None:
    """A folder that is not mounted for a moment is exit code 2: to stay down after it would lose the night."""
    for name, lines in (("systemd", SERVICE), ("quadlet", QUADLET)):
        assert value(lines, "Service", "Restart") == "on-failure", name
        assert values(lines, "Service", "RestartPreventExitStatus") == [], name
        assert 0 < seconds(value(lines, "Service", "RestartSec")) <= 30, name


def test_the_watchdog_does_not_run_out_while_the_daemon_leaves() -> None:
    """The last beat may be half of the watchdog's time old when the first signal ends the beats."""
    watchdog = seconds(value(SERVICE, "Service", "WatchdogSec"))
    assert watchdog / 2 + p4_seconds() < watchdog


# -- rights ------------------------------------------------------------------------------------------------------------


def test_the_daemon_has_no_rights_and_a_read_only_root_everywhere() -> None:
    assert re.findall(r"^USER (.*)$", CONTAINERFILE, re.MULTILINE) == [f"{UID}:{UID}"]
    compose = COMPOSE["services"]["cef-trio"]
    assert (compose["user"], compose["read_only"], compose["cap_drop"]) == (f"{UID}:{UID}", True, ["ALL"])
    assert compose["security_opt"] == ["no-new-privileges:true"]
    assert [value(QUADLET, "Container", key) for key in ("User", "Group")] == [str(UID)] * 2
    assert value(QUADLET, "Container", "DropCapability") == "all"
    for lines in (QUADLET, VALKEY_QUADLET):
        assert value(lines, "Container", "ReadOnly") == value(lines, "Container", "NoNewPrivileges") == "true"
    context = KUBERNETES["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (POD["securityContext"]["runAsUser"], POD["securityContext"]["runAsNonRoot"]) == (UID, True)


def test_the_recordings_are_read_only_everywhere() -> None:
    volumes = COMPOSE["services"]["cef-trio"]["volumes"]
    (mount,) = (mount for mount in KUBERNETES["volumeMounts"] if mount["name"] == "recordings")
    for texts in (volumes, values(QUADLET, "Container", "Volume")):
        assert all(text.endswith(":ro") for text in texts)
        assert len([text for text in texts if text.endswith(":/recordings:ro")]) == 1
    assert (mount["mountPath"], mount["readOnly"]) == ("/recordings", True)


def test_p9_no_deployment_gives_every_host_one_name_and_containers_get_the_machine_id() -> None:
    compose = COMPOSE["services"]["cef-trio"]
    assert environment(QUADLET, "Container")["INSTANCE_ID"] == "%H"
    assert compose["environment"]["INSTANCE_ID"].startswith("${INSTANCE_ID:?")
    for texts in (compose["volumes"], values(QUADLET, "Container", "Volume")):
        assert "/etc/machine-id:/etc/machine-id:ro" in texts
    owner = next(one for one in KUBERNETES["env"] if one["name"] == "OWNER_NAME")
    assert owner["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_every_valkey_keeps_an_append_only_file_and_drops_nothing() -> None:
    commands = [value(VALKEY_QUADLET, "Container", "Exec").split(), COMPOSE["services"]["valkey"]["command"]]
    for command in commands:
        options = dict(zip(command[1::2], command[2::2], strict=True))
        assert options["--appendonly"] == "yes"
        assert options["--maxmemory-policy"] == "noeviction"
    # Podman's quadlet generator (5.4) drops an empty word, and all that follows it.
    assert '""' not in value(VALKEY_QUADLET, "Container", "Exec")


# -- the files are what they are taken for -----------------------------------------------------------------------------


def test_compose_mounts_files_that_are_there_and_volumes_that_it_names() -> None:
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.replace("${RECORDINGS:?in deploy/.env}", "/recordings").split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
            elif not source.startswith("/"):
                assert source in COMPOSE["volumes"], f"{name}: {source}"
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])


def test_the_containers_and_services_that_the_operator_is_told_to_name_have_these_names() -> None:
    """Compose names its containers itself, so a command for one of them names its service."""
    page = (ROOT / "docs" / "operations.md").read_text()
    named = re.findall(r"podman (?:exec|kill|stop|inspect)(?: --signal \w+)? ([a-z][\w-]*)", page)
    assert set(named) == {value(one, "Container", "ContainerName") for one in (QUADLET, VALKEY_QUADLET)}
    services = re.findall(r"podman compose -f deploy/compose.yaml (?:exec|kill --signal HUP) ([\w-]+)", page)
    assert set(services) == {"cef-trio"} <= set(COMPOSE["services"])
    [reload] = [row for row in page.splitlines() if row.startswith("|") and "compose" in row.split("|")[1]]
    assert "podman kill" not in reload


@pytest.mark.real
@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose (it needs no engine) is not here")
def test_docker_compose_understands_the_file_and_insists_on_every_secret(tmp_path: Path) -> None:
    version = subprocess.run(["docker-compose", "version", "--short"], check=True, capture_output=True, text=True)
    if version.stdout.startswith("1"):
        pytest.skip("docker-compose 1 knows an older format")
    given = tmp_path / "env"
    command = ["docker-compose", f"--env-file={given}", f"--file={DEPLOY / 'compose.yaml'}", "config", "--quiet"]
    names = re.findall(r"^([A-Z0-9_]+)=$", (DEPLOY / "example.env").read_text(), re.MULTILINE)
    for left_out in (None, *names):
        given.write_text("".join(f"{name}=/x\n" for name in names if name != left_out))
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert (done.returncode == 0) == (left_out is None), done.stderr
        assert left_out is None or left_out in done.stderr


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = documents(provisioning / "datasources" / "prometheus.yaml")[0]["datasources"]
    (port,) = COMPOSE["services"]["prometheus"]["ports"]
    assert source["url"] == f"http://prometheus:{port.split(':')[-1]}"
    (provider,) = documents(provisioning / "dashboards" / "cef-trio.yaml")[0]["providers"]
    mounted = [volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/dashboard.json" in mounted


def test_quadlets_refer_to_quadlets_that_are_there() -> None:
    for lines in (QUADLET, VALKEY_QUADLET):
        used = [*values(lines, "Container", "Network"), *values(lines, "Container", "Volume")]
        for name in (text.split(":")[0] for text in used):
            assert name.startswith("/") or (DEPLOY / "quadlet" / name).is_file(), name
    name = value(VALKEY_QUADLET, "Container", "ContainerName")
    assert environment(QUADLET, "Container")["REDIS_URL"] == f"redis://{name}:6379/0"


def test_kubernetes_objects_belong_together() -> None:
    labels = of_kubernetes("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert of_kubernetes("Service")["spec"]["selector"] == labels
    assert of_kubernetes("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    assert {mount["name"] for mount in KUBERNETES["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
    refers: list[Any] = [next(iter(source.values()))["name"] for source in KUBERNETES["envFrom"]]
    assert refers == [of_kubernetes("ConfigMap")["metadata"]["name"]]


def test_the_image_is_of_this_version_and_copies_what_the_builder_is_sent() -> None:
    assert re.findall(r"^ARG VERSION=(.*)$", CONTAINERFILE, re.MULTILINE) == [cef_trio.__version__]
    sent = set(re.findall(r"^!(.*)$", (ROOT / ".containerignore").read_text(), re.MULTILINE))
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.MULTILINE) for name in line.split()
    }
    assert copied == sent
    assert all(list(ROOT.glob(name)) for name in sent)


def test_the_builder_is_sent_what_the_wheel_is_made_of() -> None:
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    wheel = hatch["build"]["targets"]["wheel"]
    needed = [*wheel["packages"], *wheel.get("shared-data", {}), "README.md", "LICENSE", "pyproject.toml"]
    sent = re.findall(r"^!(.*)$", (ROOT / ".containerignore").read_text(), re.MULTILINE)
    assert [name for name in needed if not any(f"{name}/".startswith(f"{folder}/") for folder in sent)] == []


def test_every_image_is_named_with_its_registry() -> None:
    """What a short name means is each host's own decision, and podman refuses it where no one can be asked."""
    images = [service["image"] for service in COMPOSE["services"].values()]
    images += [value(lines, "Container", "Image") for lines in (QUADLET, VALKEY_QUADLET)] + [KUBERNETES["image"]]
    images += re.findall(r"^ARG BASE=(.*)$", CONTAINERFILE, re.MULTILINE)
    assert len(images) == 9
    for image in images:
        assert image.startswith(("docker.io/", "localhost/")), image


def test_the_unit_lets_the_daemon_read_its_boot_id() -> None:
    """Clones of a machine are told apart by it (P9), and process_start_time_seconds needs /proc/stat."""
    assert values(SERVICE, "Service", "ProcSubset") == []


@pytest.mark.real
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_understands_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    source = (DEPLOY / "systemd" / "cef-trio.service").read_text()
    path = tmp_path / "cef-trio.service"
    # What it starts is not installed here; all else is as it is.
    path.write_text(source.replace(value(SERVICE, "Service", "ExecStart"), "/bin/true"))
    (tmp_path / "cef-trio.service.d").mkdir()
    shutil.copy(DEPLOY / "systemd" / "secrets.conf", tmp_path / "cef-trio.service.d")
    verified = subprocess.run(["systemd-analyze", "verify", path], check=False, capture_output=True, text=True)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", path],
        check=False,
        capture_output=True,
        text=True,
    )
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", judged.stdout)
    assert float(exposure) < 2.0
    assert judged.returncode == 0


@pytest.mark.real
def test_podman_understands_the_quadlets(tmp_path: Path) -> None:
    generator = Path("/usr/libexec/podman/quadlet")
    if not generator.exists():
        pytest.skip("podman's quadlet generator (podman 4.4) is not here")
    found = subprocess.run(
        [generator, "-dryrun"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "QUADLET_UNIT_DIRS": str(DEPLOY / "quadlet")},
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("ExecStart=") == 4
    assert "noeviction" in found.stdout


def test_the_reader_of_units_refuses_what_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.service"
    path.write_text("[Service]\nType notify\n")
    with pytest.raises(ValueError, match="Type notify"):
        unit(path)
    path.write_text("Type=notify\n")
    with pytest.raises(ValueError, match="Type=notify"):
        unit(path)
    lines: Unit = []
    with pytest.raises(ValueError, match="not enough"):
        value(lines, "Service", "Type")
