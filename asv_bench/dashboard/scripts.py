"""The scripts that asv's page loads from content networks, taken from their npm packages instead.

Each package is fetched once by ``npm pack``, kept under .asv/npm, and compared with the hash that is pinned
here each time it is used. None is committed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from asv.util import UserError

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".asv" / "npm"
FOLDER = "scripts"


@dataclass(frozen=True)
class Package:
    """An npm package: its sha512, which of its files stand for which of asv's, and its licence."""

    name: str
    version: str
    sha512: str
    files: dict[str, str]
    licence: str | None

    @property
    def archive(self) -> Path:
        return CACHE / f"{self.name}-{self.version}.tgz"


# By the last part of the address that asv's page has. flot has no minified files there, and
# stupid-table-plugin no version 1.0.1.
PACKAGES = (
    Package(
        "jquery",
        "3.3.1",
        "Ubldcmxp5np52/ENotGxlLe6aGMvmF4R8S6tZjsP6Knsaxd/xp3Zrh50cG93lR6nPXyUFwzN3ZSOQI0wRJNdGg==",
        {"jquery-3.3.1.min.js": "dist/jquery.min.js"},
        "LICENSE.txt",
    ),
    Package(
        "flot",
        "0.8.3",
        "xg2otcTJDvS+ERK+my4wxG/ASq90QURXtoM4LhacCq0jQW2jbyjdttbRNqU2cPykrpMvJ6b2uSp6SAgYAzj9tQ==",
        {
            "jquery.flot.min.js": "jquery.flot.js",
            "jquery.flot.time.min.js": "jquery.flot.time.js",
            "jquery.flot.selection.min.js": "jquery.flot.selection.js",
            "jquery.flot.categories.min.js": "jquery.flot.categories.js",
        },
        "LICENSE.txt",
    ),
    Package(
        "flot-orderbars",
        "1.0.0",
        "Jv51fvzevUjNXEeozpwEKfPjhiZhfiJddv0WHjduUTCmSF+7T5K7C9c9Y1wIVmUhDBv5fLMjgbwKecT0GIKPZA==",
        {"jquery.flot.orderBars.js": "js/jquery.flot.orderBars.js"},
        None,
    ),
    Package(
        "stupid-table-plugin",
        "1.1.3",
        "2Vk7XouQPxUQPRe9w0Fu7ZZ8kHLK7rDoLMsCgtKxRNJ7f4dSOGvW9CkHsq5wD6QsaEnWoyLBYH3xOEsrK3yWBg==",
        {"stupidtable.min.js": "stupidtable.min.js"},
        "LICENSE",
    ),
    Package(
        "blueimp-md5",
        "2.19.0",
        "DRQrD6gJyy8FbiE4s+bDoXS9hiW3Vbx5uCdwvcCf3zLHL+Iv7LtGHLpr+GZV8rHG8tK766FGYBwRbu8pELTt+w==",
        {"md5.min.js": "js/md5.min.js"},
        "LICENSE.txt",
    ),
    Package(
        "bootstrap",
        "3.1.1",
        "TAzqS8E/ISpVHP29gYhy+1NSV+FJwApDVQhDfgLYsIuUDJiqJzH2DfORN5tiu+Ie2iBLrzEG34t4Rf465cigqg==",
        {
            "bootstrap.min.js": "dist/js/bootstrap.min.js",
            "bootstrap.min.css": "dist/css/bootstrap.min.css",
        },
        "LICENSE",
    ),
)
# A tag that loads something; links to other sites load nothing.
TAG = re.compile(r"<(?:script|link|img)\b[^>]*>")
REMOTE = re.compile(r'\b(?:src|href)="((?:https?:)?//[^"]+)"')
GUARDS = re.compile(r'\s(?:integrity|crossorigin|referrerpolicy)="[^"]*"')


def make_local(page: str, site: Path) -> str:
    """Copy the scripts into the site, and have the page load those.

    A remote address without a copy is an error: a new asv that loads more would be found dead only by whoever
    opens the page.
    """
    local = {}
    for package in PACKAGES:
        local |= _copy(package, site)

    def rewritten(tag: re.Match[str]) -> str:
        remote = REMOTE.search(tag[0])
        if not remote:
            return tag[0]
        name = remote[1].rpartition("/")[2]
        if name not in local:
            raise UserError(
                f"asv's page loads {remote[1]}, of which asv_bench/dashboard/scripts.py has no copy"
            )
        return GUARDS.sub("", tag[0].replace(remote[1], local[name]))

    return TAG.sub(rewritten, page)


def _copy(package: Package, site: Path) -> dict[str, str]:
    """Write a package's files; give the address of each by the name that asv's page has."""
    _fetch(package)
    folder = site / FOLDER / package.name
    folder.mkdir(parents=True, exist_ok=True)
    addresses = {}
    with tarfile.open(package.archive) as archive:
        for name, inside in package.files.items():
            target = folder / Path(inside).name
            target.write_bytes(_member(archive, inside))
            addresses[name] = f"{FOLDER}/{package.name}/{target.name}"
        if package.licence:
            (folder / "LICENSE.txt").write_bytes(_member(archive, package.licence))
    return addresses


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"package/{name}")
    if file is None:
        raise UserError(f"{archive.name}: {name} is no file")
    return file.read()


def _fetch(package: Package) -> None:
    if not package.archive.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        wanted = f"{package.name}@{package.version}"
        command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(CACHE), wanted]
        try:
            subprocess.run(command, cwd=CACHE, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise UserError("asv publish needs npm, once, for the scripts of its page") from None
        except subprocess.CalledProcessError as failed:
            raise UserError(f"{' '.join(command)} failed: {failed.stderr.strip()}") from None
    found = base64.b64encode(hashlib.sha512(package.archive.read_bytes()).digest()).decode()
    if found != package.sha512:
        # Not to be used by the next run either.
        os.replace(package.archive, package.archive.with_suffix(".wrong"))
        raise UserError(f"{package.archive.name} has sha512 {found}, not {package.sha512}")
