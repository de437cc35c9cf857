"""Embedded data: drawn products with captions, defects and exact masks.

Start with `scene.py` (a whole picture); `outlines.py` holds the parts, `materials.py` their
surface, `flaws.py` their defects; `belts.py` draws videos of a conveyor belt.
Not here: defects pasted into photographs (synthetic/).
"""
