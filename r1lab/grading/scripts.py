"""Scripts of the world's languages: one table for everything that counts, compares or finds letters of a script."""

SCRIPTS = {
    "latin": "a-zA-ZªºÀ-ÖØ-öø-ɏḀ-ỿ",
    "greek": "\u0370-\u03fe\u1f00-\u1ffe",
    "cyrillic": "\u0400-\u052f",
    "arabic": "\u0620-\u064a\u066e-\u06d3\u06d5-\u06ff\u0750-\u077f\u08a0-\u08ff",
    "hebrew": "\u05d0-\u05ea",
    "devanagari": "\u0900-\u097f",
    "thai": "\u0e00-\u0e7f",
    "hangul": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3",
    "han": "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af々",
    "kana": "\u3041-\u3096\u30a1-\u30faー",
}
"""By name: its letters, as a character class of a regular expression."""
