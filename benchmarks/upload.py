"""Measure the cost of an upload for the client, for cef-trio and boto3, with the same endpoint.

    python benchmarks/upload.py [--mib 512] [--part-mib 8] [--at-once 4]

Each client runs in a process of its own and uploads the same file from the page cache. Its CPU seconds (including
start-up) and its peak memory are from getrusage(2); the endpoint's process is not counted. Compare the ratios: the
seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

MIB = 1024 * 1024
BUCKET = "benchmark"
KEYS = ("cef-trio", "cef-trio-secret")


def ours(url: str, path: str, part_bytes: int, at_once: int, **how: str) -> None:
    import trio

    from cef_trio.files.reader import FileSlice, KernelDisk
    from cef_trio.s3.client import S3Client
    from cef_trio.s3.config import ChecksumMode, PayloadSigning, S3Config
    from cef_trio.s3.credentials import StaticCredentials
    from cef_trio.s3.model import PartToComplete, UploadedPart
    from cef_trio.s3.signing import Credentials
    from cef_trio.upload.part_plan import Part, PartPlan

    async def main() -> None:
        config = S3Config(
            BUCKET,
            StaticCredentials(Credentials(*KEYS)),
            endpoint_url=url,
            checksum=ChecksumMode(how.get("checksum", "auto")),
            payload_signing=PayloadSigning(how.get("payload", "auto")),
        )
        sent: dict[int, UploadedPart] = {}
        capacity = trio.CapacityLimiter(at_once)
        async with S3Client(config) as s3, KernelDisk().open(path) as recording:
            created = await s3.create_multipart_upload("ours", metadata={"cef-stream-id": "x"})

            async def send(part: Part) -> None:
                async with capacity:
                    piece = FileSlice(recording, part.offset, part.size_bytes)
                    sent[part.number] = await s3.upload_part(
                        "ours", created.upload_id, part.number, piece, created.checksum
                    )

            async with trio.open_nursery() as nursery:
                for part in PartPlan(part_bytes, equal_parts=True).split(Path(path).stat().st_size):
                    nursery.start_soon(send, part)
            parts = [
                PartToComplete(part.part_number, part.etag, part.size_bytes, part.crc64nvme, part.checksum)
                for _, part in sorted(sent.items())
            ]
            await s3.complete_multipart_upload(
                "ours", created.upload_id, parts, checksum=created.checksum, stream_id="x"
            )

    trio.run(main)


def signed(url: str, path: str, part_bytes: int, at_once: int) -> None:
    ours(url, path, part_bytes, at_once, payload="signed", checksum="md5")


def by_boto3(url: str, path: str, part_bytes: int, at_once: int) -> None:
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=KEYS[0],
        aws_secret_access_key=KEYS[1],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    transfer = TransferConfig(multipart_threshold=part_bytes, multipart_chunksize=part_bytes, max_concurrency=at_once)
    client.upload_file(path, BUCKET, "boto3", Config=transfer)


CLIENTS: dict[str, Callable[[str, str, int, int], None]] = {
    "cef-trio (CRC64NVME, unsigned payload)": ours,
    "cef-trio (MD5, signed payload)": signed,
    "boto3 (its defaults)": by_boto3,
}


def one(name: str, arguments: list[str]) -> None:
    began = time.monotonic()
    CLIENTS[name](arguments[0], arguments[1], int(arguments[2]), int(arguments[3]))
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "cpu": used.ru_utime + used.ru_stime,
                "wall": time.monotonic() - began,
                "mib": used.ru_maxrss / 1024,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--part-mib", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        with path.open("wb") as file:
            for _ in range(options.mib):
                file.write(os.urandom(MIB))
        server = subprocess.Popen(
            [sys.executable, "-m", "cef_trio.s3_endpoint", "--port", "0", "--bucket", BUCKET, "--data", folder + "/s3"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            results = {}
            for name in CLIENTS:
                command = [sys.executable, __file__, "--one", name, url, str(path)]
                command += [str(options.part_mib * MIB), str(options.at_once)]
                results[name] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        finally:
            server.terminate()
            server.wait()
    first = next(iter(results.values()))
    print(f"{options.mib} MiB in parts of {options.part_mib} MiB, {options.at_once} at once")
    for name, found in results.items():
        print(
            f"{name:40} CPU {found['cpu']:5.2f} s ({found['cpu'] / first['cpu']:.1f} x)   "
            f"peak {found['mib']:5.0f} MiB ({found['mib'] / first['mib']:.1f} x)   wall {found['wall']:5.2f} s"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3:])
    else:
        main()
