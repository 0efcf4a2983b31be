"""Downloads archives by pip's own settings: index, mirror, certificates, credentials, proxy. It is its own process.

    echo '{"folder": ..., "archives": [{"name": ..., "version": ..., "file": ...}]}' | python pip_client.py

`file` is null where any source archive of the version will do. A line of JSON comes back for each archive:
{"name": ..., "file": ...} when it is in the folder, {"name": ..., "fault": ...} when it cannot be had.

`pip download` of a source archive runs the build program that the archive names, to learn what it depends on. Nothing
of an archive may run here, so this file asks pip for the link and fetches it. Pip has no public interface for that: the
names of `pip._internal` below are those of pip 22 to 26. An archive is compared with its hash by the caller.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

BLOCK = 1 << 18
MAX_ARCHIVE_BYTES = 200 << 20
SOURCE = (".tar.gz", ".zip")


def main() -> None:
    sys.path.pop(0)  # the folder of this file: its names would stand before those that pip imports
    request = json.load(sys.stdin)
    from pip._internal.commands import create_command

    command: Any = create_command("download")
    options, _ = command.parse_args(["--no-deps", "--no-input"])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session, ignore_requires_python=True)
        for archive in request["archives"]:
            try:
                name = fetch(finder, session, archive, Path(request["folder"]))
                line = {"name": archive["name"], "file": name}
            except Exception as error:
                line = {"name": archive["name"], "fault": f"{type(error).__name__}: {error}"}
            print(json.dumps(line), flush=True)


def fetch(finder: Any, session: Any, archive: dict[str, str | None], folder: Path) -> str:
    """Brings one archive into the folder and returns its file name. Raises LookupError if no index has it."""
    links = [candidate.link for candidate in finder.find_all_candidates(archive["name"])
             if str(candidate.version) == archive["version"]]  # fmt: skip
    names = {link.filename: link for link in links}
    wanted = archive["file"] or min((name for name in names if name.endswith(SOURCE)), default="")
    if wanted not in names:
        found = ", ".join(sorted(names)) or "nothing"
        raise LookupError(f"{archive['file'] or 'a source archive'} is not there; pip's indexes have {found}")
    place, partial = folder / wanted, folder / f".{wanted}.{os.getpid()}"
    link = names[wanted]
    response = session.get(link.url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True)
    response.raise_for_status()
    try:
        with partial.open("wb") as file:
            for block in response.iter_content(BLOCK):
                if file.tell() + len(block) > MAX_ARCHIVE_BYTES:
                    raise ValueError(f"{wanted} has more than {MAX_ARCHIVE_BYTES} bytes")
                file.write(block)
        shutil.move(partial, place)
    finally:
        partial.unlink(missing_ok=True)
    return wanted


if __name__ == "__main__":
    main()
