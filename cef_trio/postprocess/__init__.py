"""After an upload: delete or move the file, deliver the webhook, forget old streams.

Promise P8: a file is changed only if ``AFTER_UPLOAD`` or ``MIN_FREE_SPACE`` asks for it, and only after its object was
verified again.

Open `after_upload.py` and `after_upload_rules.py` for `AFTER_UPLOAD`; `free_space.py` and `free_space_rules.py` for
`MIN_FREE_SPACE`; `kept_recordings.py` for what stays until then; `verification.py` for the checks of both, before
anything is deleted; `delete.py` and `move.py` for one action; `disposal.py`, `rename_file.py` and `copy_file.py` for
the system calls; `webhooks.py` for which deliveries are due and their retries, `webhook_sources.py` for where the
pending ones are recorded (the room `webhook/` for one POST); `retention.py` for forgetting.
"""

from cef_trio.postprocess.after_upload import AfterUpload
from cef_trio.postprocess.retention import forget_old_streams, mend_indexes
from cef_trio.postprocess.webhook_sources import Completions, Events, Source
from cef_trio.postprocess.webhooks import WebhookDeliverer

__all__ = ["AfterUpload", "Completions", "Events", "Source", "WebhookDeliverer", "forget_old_streams", "mend_indexes"]
