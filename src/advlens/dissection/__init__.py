"""Network dissection: what each unit detects, on real images and under attack."""

from advlens.dissection.layer import Concepts, Kind
from advlens.dissection.method import Dissection
from advlens.dissection.tally import Counting
from advlens.dissection.upsampling import Axis, Upsampling
from advlens.dissection.walk import Dissector

__all__ = ["Axis", "Concepts", "Counting", "Dissection", "Dissector", "Kind", "Upsampling"]
