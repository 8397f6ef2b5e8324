"""What nbfagg is measured with: shapes, turns, the limit of a shape, peers; and ``nbfagg bench``.

`cases` names the shapes and makes their logits, `turns` times sides in turns, `limits` says what moving the
bytes of a shape takes, `peers` is the table of who else computes the same, and `compare` puts them together.
`command` is ``nbfagg bench``; asv's suite and README.md's figures, in the repository's `asv_bench`, use the
same modules.

Imports between these modules are relative, and `cases`, `turns`, `limits`, `errors`, `memory` and `peers`
import nothing else of nbfagg but its public functions: asv's suite takes them from its own checkout, beside
whichever version of nbfagg it measures.
"""
