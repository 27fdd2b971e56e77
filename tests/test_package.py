"""What ``import ldis_jax`` gives."""

import ldis_jax


def test_package_dir_lists_what_is_imported_on_first_use():
    assert set(ldis_jax.__all__) <= set(dir(ldis_jax))
    assert all(hasattr(ldis_jax, name) for name in dir(ldis_jax))
