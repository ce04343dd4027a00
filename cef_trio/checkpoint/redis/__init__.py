"""Checkpoints in Redis: keys, encoding, scripts, and the connection.

Open `store.py` for the calls; `scripts/` for the atomic steps; `keys.py` for key names; `codec.py` for how records are
encoded; `address.py` for `REDIS_URL`; `client.py` for time-outs, certificates and reconnecting; `connection.py` for
name resolution; `cluster.py` for how a cluster's nodes are found; `errors.py` for which errors are transient;
`server_info.py` for the properties of the server; `legacy.py` for the keys of earlier versions; `owner_claim.py` for
clones; `owners.py` for the names of all owners; `verifications.py` for when objects were last verified; `indexes.py`
for indexes that Redis lost.
"""

from cef_trio.checkpoint.redis import codec
from cef_trio.checkpoint.redis.address import parse_address
from cef_trio.checkpoint.redis.codec import decode_time, encode_time
from cef_trio.checkpoint.redis.keys import Keys, job_lock_name
from cef_trio.checkpoint.redis.legacy import LegacyStream, LegacyStreams, Moved
from cef_trio.checkpoint.redis.legacy import Place as LegacyPlace
from cef_trio.checkpoint.redis.owner_claim import OwnerClaim
from cef_trio.checkpoint.redis.owners import Owners
from cef_trio.checkpoint.redis.server_info import UNKNOWN_POLICY, ServerInfo
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.redis.verifications import Verifications

__all__ = [
    "UNKNOWN_POLICY",
    "Keys",
    "LegacyPlace",
    "LegacyStream",
    "LegacyStreams",
    "Moved",
    "OwnerClaim",
    "Owners",
    "RedisCheckpointStore",
    "ServerInfo",
    "Verifications",
    "codec",
    "decode_time",
    "encode_time",
    "job_lock_name",
    "parse_address",
]
