"""The demo backbone: a small CLIP of the project's own, and the script that draws its pictures and trains it.

It exists so that everything can be tried without a download. It knows drawn shapes, printed and handwritten digits and
letters; it knows no photographs (`model_card.md` has the measured numbers).

    vocabulary.py      what a picture can be: names, colours, textures, backgrounds as small integers
    fonts.py           fonts of this machine, split into families to train on and families never seen
    strokes.py         handwritten-like digits from stroke skeletons
    shapes.py          outlines of the named shapes
    effects.py         warps, textures, colours, low resolution, blur and noise for a whole batch at once
    draw.py            pictures with their attributes: the door to all of the above
    captions.py        captions that are true of a picture, and the test whether one is
    stem.py            the convolutional stem before the blocks, and the function that builds the whole network
    muon.py            the optimiser of the blocks
    training.py        the compact token table, the loss and the evaluation used by the script
    pretrain.py        the script: `python -m npt_core.clip.demo.pretrain --out DIR`
    weights.py         reading and writing the shipped files
    real_digits.py     the real handwritten digits of scikit-learn: only for measuring, never for training
"""
