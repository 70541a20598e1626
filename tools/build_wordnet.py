"""Build the packaged table of WordNet 3.0's nouns, src/advlens/tables/wordnet.txt.xz.

    apt-get install --no-install-recommends wordnet-base
    python tools/build_wordnet.py [DATA_NOUN [TABLE]]

One line per noun synset, ordered by offset: `wnid hypernym hypernym...<TAB>lemma lemma...`.
A wnid is "n" and the synset's byte offset in data.noun, eight digits; lemmas have underscores.
"""

import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

from advlens.files import atomic, sha256

DATA_NOUN = Path("/usr/share/wordnet/data.noun")
DATA_NOUN_SHA256 = "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2"
TABLE = Path(__file__).parents[1] / "src" / "advlens" / "tables" / "wordnet.txt.xz"


def synset_lines(data_noun: Path) -> Iterator[str]:
    """The table's lines; the format of data.noun is described in the manual page wndb(5WN)."""
    with open(data_noun, encoding="ascii") as file:
        for line in file:
            if line.startswith("  "):  # the licence notice at the top
                continue
            fields = line.partition(" | ")[0].split()
            words_end = 4 + 2 * int(fields[3], 16)  # each word is followed by its lexical id
            lemmas = fields[4:words_end:2]
            pointers = fields[words_end + 1 :]  # symbol, offset, part of speech, source/target
            hypernyms = [
                f"n{offset}"
                for symbol, offset in zip(pointers[::4], pointers[1::4], strict=True)
                if symbol in ("@", "@i")  # hypernyms and instance hypernyms
            ]
            yield f"{' '.join(['n' + fields[0], *hypernyms])}\t{' '.join(lemmas)}\n"


def build(data_noun: Path = DATA_NOUN, table: Path = TABLE) -> None:
    """Check `data_noun` against WordNet 3.0's SHA-256 and write `table`."""
    if sha256(data_noun) != DATA_NOUN_SHA256:
        sys.exit(f"{data_noun} is not WordNet 3.0's data.noun; take it from Debian's wordnet-base")
    with atomic(table) as file:
        file.write(lzma.compress("".join(synset_lines(data_noun)).encode("ascii")))


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
