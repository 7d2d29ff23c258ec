"""A small RTSP server (RFC 2326) for one live H.264 stream: several viewers, RTP interleaved over TCP.

Plain asyncio; it knows neither graphs nor encoders, and takes every byte that a client sends for hostile.
"""
