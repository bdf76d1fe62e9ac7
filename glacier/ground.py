"""Where pixels lie in their CRS, and places of several CRSs brought together in degrees."""

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.warp import transform as reproject

from glacier.errors import GlacierError


def applied(
    transform: NDArray[np.float64], columns: NDArray[np.float64] | float, rows: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Where places in px lie (…, 2), in a CRS's unit: by affines (…, 6), `a` to `f`, that broadcast."""
    a, b, c, d, e, f = np.moveaxis(transform, -1, 0)
    return np.stack((a * columns + b * rows + c, d * columns + e * rows + f), axis=-1)


def degrees(crs: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitude and latitude (n, 2) of points (n, 2) in `crs`, a well-known text.

    Raises:
        GlacierError: `crs` has no place on the earth, as a local one has not.
    """
    try:
        return np.column_stack(reproject(crs, "EPSG:4326", *points.T))
    except (RasterioError, CPLE_BaseError) as error:
        raise GlacierError(
            f"CRS {crs[:60]!r}… cannot be brought to degrees ({error}); expected scenes whose places on "
            "the earth can be compared"
        ) from error
