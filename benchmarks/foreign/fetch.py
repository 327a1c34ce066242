"""An app's source, from a public repository at one commit."""

import io
import subprocess
import tarfile
from pathlib import Path


def fetch(repository: str, commit: str, folder: str, into: Path) -> Path:
    """Write `folder` of the commit below `into`, unless it is there already.

    Only this commit is fetched, and of its files only those of the folder. Nothing of
    the source is changed.

    Parameters
    ----------
    repository : str
        Address of the repository, or the path of a local clone (with or without a work
        tree).
    commit : str
        The commit: 40 hexadecimal digits.
    folder : str
        Path of the app in the repository; ``""`` is the repository itself.
    into : Path
        Folder for this repository and commit; created if it does not exist.

    Returns
    -------
    Path
        The app's folder.

    Raises
    ------
    RuntimeError
        If git fails; with what it wrote.
    """
    app = into / "source" / folder
    if not (app / "pyproject.toml").is_file():
        local = Path(repository).is_dir()
        clone = Path(repository) if local else into / "clone"
        if not local:
            if not clone.exists():
                git("init", "--quiet", str(clone))
            # The files themselves are fetched below, when `archive` reads them.
            git("-C", str(clone), "remote", "remove", "origin", check=False)
            git("-C", str(clone), "remote", "add", "origin", repository)
            git(
                *("-C", str(clone), "fetch", "--quiet", "--depth=1"),
                *("--filter=blob:none", "origin", commit),
            )
        # Not a checkout: a local clone's work tree and index stay as they are.
        files = git("-C", str(clone), "archive", f"{commit}:{folder}")
        with tarfile.open(fileobj=io.BytesIO(files)) as archive:
            archive.extractall(app, filter="data")
    if not (app / "pyproject.toml").is_file():
        raise RuntimeError(f"{folder} of {repository} at {commit} is not a Flower app")
    return app


def git(*arguments: str, check: bool = True) -> bytes:
    done = subprocess.run(["git", *arguments], capture_output=True)
    if check and done.returncode:
        words = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"git {' '.join(arguments)}: {words}")
    return done.stdout
