"""XML from strangers: one pass of expat that never sees a document type, and says where a file is broken."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from xml.parsers import expat

from core.errors import DataError

__all__ = ["parse"]


def parse(path: str | Path, parser: expat.XMLParserType) -> None:
    """Feed a file (.gz or not) to a parser whose handlers are set.

    Raises:
        DataError: the file is missing, damaged, malformed (line and column), or declares a document type, with
            which entities could be defined.
    """

    def refuse(*_: object) -> None:
        raise DataError("a document type (and so an entity) is not accepted", field=str(path))

    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", field=str(path))
    parser.StartDoctypeDeclHandler = refuse
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            parser.ParseFile(stream)
    except expat.ExpatError as error:
        reason = f"malformed XML at line {error.lineno}, column {error.offset} ({expat.ErrorString(error.code)})"
        raise DataError(reason, field=str(path)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read ({error})", field=str(path)) from None
