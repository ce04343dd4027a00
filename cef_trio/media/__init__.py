"""The media properties of a recording (ffprobe), and the metadata JSON beside the object.

Open `ffprobe.py` for the process, its limits, and which values are read from its output; `boxes.py` for a file
whose end is missing; `metadata.py` for the JSON document.
"""

from cef_trio.media import ffprobe
from cef_trio.media.ffprobe import probe
from cef_trio.media.metadata import MediaInfo, metadata_json, object_crc64nvme, path_fields

__all__ = ["MediaInfo", "ffprobe", "metadata_json", "object_crc64nvme", "path_fields", "probe"]
