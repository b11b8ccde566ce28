"""Getting at an object store: who we are there, and what its refusals mean."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from featstore.errors import CorruptStoreError, FeatstoreError, MissingExtraError, NotFoundError, UsageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Patience", "connect", "explain", "login"]

_CODE = re.compile(r"<Code>(\w+)</Code>")
# where the environment says who we are in a way that obstore reads by itself
_DIRECT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
_NO_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with `pip install 'featstore[s3]'`, or run where a "
    "role is attached"
)
_RESUME = "then run the same command again: it goes on where it stopped"


class Patience(NamedTuple):
    """How long to keep asking, to wait for a connection, and to wait for a server that says nothing."""

    total: timedelta
    connect: timedelta
    silence: timedelta


def connect(location: str, patience: Patience) -> ObjectStore:
    """The object store at a URL, with credentials, region and endpoint from the environment.

    Raises:
        UsageError: the address or the credentials cannot be right.
        MissingExtraError: `AWS_PROFILE` is set and boto3 is not installed.
    """
    from obstore.store import from_url

    try:
        store: ObjectStore = from_url(
            location,
            client_options={
                "connect_timeout": patience.connect,
                "read_timeout": patience.silence,
                "timeout": "15 minutes",
                "allow_http": any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS),
            },
            retry_config={"max_retries": 10, "retry_timeout": patience.total, "backoff": {}},
            **login(location),
        )
    except (BaseError, ValueError) as error:
        raise UsageError(
            f"cannot use {location}: {str(error).splitlines()[0]}",
            hint="check the address, and that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set or unset together",
        ) from error
    return store


def login(location: str) -> dict[str, Any]:
    """What obstore has to be told beyond the environment: profiles and single sign-on of the AWS tools, which boto3 reads.

    Raises:
        MissingExtraError: `AWS_PROFILE` is set and boto3 is not installed.
        UsageError: there is no such profile.
    """
    if not location.startswith("s3") or any(os.environ.get(name) for name in _DIRECT):
        return {}
    profile = os.environ.get("AWS_PROFILE")
    if not profile and not _has_profiles():
        return {}
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        if profile:
            raise MissingExtraError("boto3", "s3", f"the AWS profile '{profile}'") from None
        return {}
    try:
        session = boto3.Session()
        if session.get_credentials() is None:
            return {}
        return {"credential_provider": Boto3CredentialProvider(session)}
    except BotoCoreError as error:
        raise UsageError(f"the AWS profile cannot be used: {error}", hint="check AWS_PROFILE and ~/.aws") from error


def _has_profiles() -> bool:
    config = os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")
    shared = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    return any(Path(path).expanduser().is_file() for path in (config, shared))


def explain(error: Exception, location: str, where: str) -> FeatstoreError:
    """An error of the object store in words that say what to do."""
    text = str(error)
    found = _CODE.search(text)
    code = found[1] if found else ""
    bucket = "/".join(location.split("/")[:3])
    if code == "NoSuchBucket":
        return UsageError(
            f"there is no bucket {bucket}", hint="check the name and AWS_ENDPOINT_URL, or make the bucket"
        )
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{where} does not exist")
    if code == "InvalidRange":
        return CorruptStoreError(f"{where} has fewer bytes than were published", hint="`featstore verify` shows more")
    if "169.254." in text:  # where a machine of the cloud asks for its role, the last resort
        return FeatstoreError(f"no credentials for {bucket}", hint=_NO_CREDENTIALS)
    if code in ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"):
        return FeatstoreError(f"the credentials for {bucket} have expired", hint=f"renew them; {_RESUME}")
    if code == "RequestTimeTooSkewed":
        return FeatstoreError(f"{bucket} refuses requests dated like ours", hint=f"set this machine's clock; {_RESUME}")
    # a refused listing is no PermissionDeniedError
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or "403 Forbidden" in text:
        return FeatstoreError(
            f"{bucket} refuses access to {where}{f' ({code})' if code else ''}",
            hint=f"check the credentials and what the bucket's policy lets them do; {_RESUME}",
        )
    if code == "NotImplemented":
        return UsageError(
            f"{bucket} does not know create-only writes, so commits could be lost",
            hint="use a server that honours If-None-Match (AWS S3, recent MinIO, R2, GCS, Azure), or a local disk",
        )
    if "redirect" in text or code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
        return UsageError(f"{bucket} is in another region", hint="set AWS_REGION to the region of the bucket")
    return FeatstoreError(
        f"{where} cannot be reached: {_reason(text)}",
        hint=f"check the network and AWS_ENDPOINT_URL; {_RESUME}",
    )


def _reason(text: str) -> str:
    """The first line, from where obstore says what happened."""
    line = (text.strip().splitlines() or ["no reason given"])[0]
    found = _CODE.search(text)
    return f"the server answers {found[1]}" if found else line[-300:]
