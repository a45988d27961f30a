"""Which of the laws are asked again of the compiled kernels."""


def pytest_collection_modifyitems(config, items):
    """`test_numba_kernels` takes over modules of laws: of tests with several paths only the fused one is meant."""
    other = [
        item
        for item in items
        if item.path.name == "test_numba_kernels.py"
        and getattr(item, "callspec", None) is not None
        and item.callspec.params.get("path", "fused") != "fused"
    ]
    if other:
        config.hook.pytest_deselected(items=other)
        left_out = set(other)
        items[:] = [item for item in items if item not in left_out]
