"""What the source and sink operators share: addresses, colour, clear words for codec faults, codecs and devices.

Plain functions and data; nothing here is an operator, and importing it loads neither PyAV nor OpenCV.
"""
