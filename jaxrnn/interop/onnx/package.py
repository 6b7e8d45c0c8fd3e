"""The package `onnx`, which only this part of the library needs."""

from typing import Any


def onnx_package() -> Any:
    """Returns the module `onnx`.

    Raises:
      ImportError: if it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "ONNX files need the package `onnx`, which is not installed. Install it: "
            "pip install 'jaxrnn[onnx]'."
        ) from error
    return onnx
