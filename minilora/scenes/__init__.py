"""Embedded data: drawn products with captions, defects and exact masks.

Start with `scene.py`, which draws a whole picture.  `signed_distance.py` holds the basic shapes,
`outlines.py` the products made of them, `materials.py` their surfaces, `flaws.py` their defects;
`belts.py` draws videos of a conveyor belt.
Not here: defects pasted into photographs (synthetic/).
"""
