"""Puts trained weights into the package: `python -m training.package FOLDER/small.pth`."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from hqsam_export import checkpoint, exporter, repository
from hqsam_server import small_model


def main() -> None:
    """Export the weights and replace the package's files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder)
        manifest = exporter.export(
            checkpoint.load_model(args.weights), exported, "fp16-weights", report=print
        )
        # Configs and Python models come from the repository's template.
        del manifest["template_files"]
        repository.write_manifest(exported, manifest)
        shutil.rmtree(small_model.FOLDER, ignore_errors=True)
        for name in [*manifest["files"], repository.MANIFEST]:
            (small_model.FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(exported / name, small_model.FOLDER / name)
    files = [path for path in small_model.FOLDER.rglob("*") if path.is_file()]
    print(f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB in {small_model.FOLDER}")


if __name__ == "__main__":
    main()
