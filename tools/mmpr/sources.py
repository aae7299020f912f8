"""Where the files of a set come from: a folder that has them, or the hub, which is asked only for what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from tools.mmpr.published import DOWNLOADS, OWNER, SETS, PrepareError, PublishedSet, recognise

UNREACHABLE = (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)


@dataclass(frozen=True)
class DownloadedSet:
    """One set and the folder of its downloaded files; `from_hub` names the repository that fills it."""

    published: PublishedSet
    folder: Path
    from_hub: str | None = None

    @property
    def name(self) -> str:
        """For the record: the repository, or the folder."""
        return self.from_hub or str(self.folder)

    def fetch(self, archives: Sequence[str], revision: str | None = None) -> None:
        """Download what is missing, with progress; a stopped download goes on. Offline, what is there has to do.

        Raises:
            PrepareError: the hub cannot be reached and nothing is there.
        """
        if self.from_hub is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            snapshot_download(
                self.from_hub,
                repo_type="dataset",
                revision=revision,
                local_dir=self.folder,
                allow_patterns=self.published.patterns(archives),
            )
        except UNREACHABLE as error:
            if not any(self.folder.glob("*.zip*")):
                cure = f"on a machine with network: {self.published.download_command(Path(self.published.name))}"
                raise PrepareError(
                    f"{self.from_hub}: the hub did not bring it ({error}); {cure}; then --source {self.published.name}"
                ) from error
            print(f"{self.from_hub}: the hub cannot be reached; going on with what is in {self.folder}")

    def companion(self, name: str) -> Path:
        """A file beside the zips; PrepareError where it is not there."""
        path = self.folder / name
        if not path.is_file():
            raise PrepareError(f"{path}: not there; {self.published.download_command(self.folder, name)}")
        return path


def find_sources(source: str, sets: Sequence[str] | None, out: Path) -> Iterator[DownloadedSet]:
    """The sets that `source` names or holds.

    Args:
        source: a folder of one set, or with a folder per set; or owner/name, or owner, on the hub.
        sets: names in SETS, None for all that are found.
        out: below which downloads go.

    Raises:
        PrepareError: no set is found, or one that is asked for is not.
    """
    folder = Path(source)
    if folder.is_dir():
        yield from _in_folder(folder, sets)
        return
    owner, _, name = source.rstrip("/").partition("/")
    names = [name] if name else list(sets or ())
    if not names or any(part in ("", ".", "..") for part in (owner, *names)) or len(folder.parts) > 2:
        raise PrepareError(
            f"--source {source}: neither a folder nor a name on the hub: {OWNER}/MMPR-v1.1, or {OWNER} with --sets"
        )
    for one in names:
        if one not in SETS or sets and one not in sets:
            raise PrepareError(f"--source {source}: not one of the sets {', '.join(sets or SETS)}")
        yield DownloadedSet(SETS[one], out / one / DOWNLOADS, f"{owner}/{one}")


def _in_folder(folder: Path, sets: Sequence[str] | None) -> Iterator[DownloadedSet]:
    own = recognise(folder)
    if own is not None:
        asked = SETS[sets[0]] if sets and len(sets) == 1 else own
        if sets and asked.name not in sets:
            raise PrepareError(f"--source {folder}: holds {own.name}, not {', '.join(sets)}")
        yield DownloadedSet(asked, folder)
        return
    found = {name: folder / name for name in SETS if recognise(folder / name)}
    lacking = [name for name in sets or [] if name not in found]
    if lacking or not found:
        names = lacking or list(SETS)
        cure = SETS[names[0]].download_command(folder / names[0])
        raise PrepareError(f"--source {folder}: holds no files of {', '.join(names)}; {cure}")
    for name in sets or found:
        yield DownloadedSet(SETS[name], found[name])
