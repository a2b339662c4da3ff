"""Create the buckets named on the command line where they do not exist. The S3 address and keys come from the AWS_* variables."""

from __future__ import annotations

import sys

import boto3


def main(names: list[str]) -> None:
    s3 = boto3.client("s3")
    present = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in names:
        if name not in present:
            s3.create_bucket(Bucket=name)


if __name__ == "__main__":
    main(sys.argv[1:])
