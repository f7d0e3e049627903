"""Write equations as MathML, which browsers render without a script."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: object) -> str:
    """The HTML of a page with every equation of `pymdownx.arithmatex` as MathML."""
    return EQUATION.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    _, bracket, latex = match.groups()
    block = bracket == "["
    equation = convert(html.unescape(latex.strip()), display="block" if block else "inline")
    return f'<div class="equation">{equation}</div>' if block else equation
