"""What minilora is compared with, each written out in one module on the same CLIP and pictures."""
