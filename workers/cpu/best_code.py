"""Which panel code this CPU runs: the fastest of those whose instructions it has."""

from __future__ import annotations

from bros.workers.cpu.matrix_code import MatrixCode, may_use_matrix_unit
from bros.workers.cpu.panel_code import (
    DotProductCode,
    LookupCode,
    MultiplyAddCode,
    PanelCode,
    has_feature,
)


def _best_code() -> type[PanelCode]:
    if not has_feature("avx512bf16"):
        return MultiplyAddCode
    if may_use_matrix_unit():
        return MatrixCode
    return LookupCode if has_feature("avx512vbmi") else DotProductCode


BEST_CODE = _best_code()
