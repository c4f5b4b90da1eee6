"""What pyproject.toml cannot say: the C loop is optional, and sweeps/ is installed inside the package."""

from setuptools import Extension, find_packages, setup

setup(
    packages=[*find_packages(include=["commbench", "commbench.*"]), "commbench.sweeps"],
    package_dir={"commbench.sweeps": "sweeps"},
    package_data={
        "commbench": ["py.typed", "data/*.csv"],
        "commbench.emit": ["plugin/*.c", "plugin/*.h"],
        "commbench.knobs": ["*.csv"],
        "commbench.report.html": ["*.j2", "*.css", "*.js"],
        "commbench.sweeps": ["*.yaml", "lab/*.yaml", "tuning/*.yaml"],
    },
    # optional: without a compiler the Python loop serves, and every run says which one timed it.
    ext_modules=[
        Extension(
            "commbench.backends._cloop", ["commbench/backends/_cloop.c"], optional=True, extra_compile_args=["-O2"]
        )
    ],
)
