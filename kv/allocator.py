"""Placeholder while the interface is agreed; see docs/design."""


class Allocator: ...
