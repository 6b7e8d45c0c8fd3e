"""What mkdocs does beside its plugins: home and API pages, mathematics, links.

The home page is README.md. A page for each public module lists every public name once;
a public name without a docstring fails the build. Mathematics becomes MathML, which
browsers draw by themselves. Links to files outside docs/ become the file's name, as the
site does not hold them; a file that does not exist fails the build.
"""

import html
import re
from pathlib import Path
from typing import Any

import griffe
import latex2mathml.converter
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PACKAGE = "jaxrnn"


def public_names(package: griffe.Module | griffe.Alias) -> dict[str, list[str]]:
    """Returns the public names of the package and of each of its public modules.

    The names of the package are those of `__all__`. A module among them has a page of
    its own, with the names of its own `__all__`, or else all that it defines without
    an underscore.

    Raises:
      PluginError: if a name has no docstring.
    """
    pages: dict[str, list[str]] = {package.path: []}
    for name in package.exports or ():
        member = package[str(name)]
        if member.is_module:
            pages[f"{package.path}.{name}"] = _defined(member)
        else:
            pages[package.path].append(f"{package.path}.{name}")
    silent = [
        path
        for paths in pages.values()
        for path in paths
        if not package[path.removeprefix(f"{package.path}.")].has_docstring
    ]
    if silent:
        raise PluginError(
            f"Every public name needs a docstring, but {', '.join(silent)} has none."
        )
    return pages


def load() -> Any:
    """Returns the package, read but not imported."""
    return griffe.load(PACKAGE, search_paths=[ROOT], resolve_aliases=True)


def _defined(module: Any) -> list[str]:
    if module.exports is not None:
        names = [str(name) for name in module.exports]
    else:
        names = [
            name
            for name, member in module.members.items()
            if not name.startswith("_") and not member.is_alias and _is_shown(member)
        ]
    return [f"{module.path}.{name}" for name in names]


def _is_shown(member: Any) -> bool:
    """Whether a name is shown where there is no `__all__`."""
    return member.is_function or member.is_class or member.has_docstring


def api_pages() -> dict[str, str]:
    """Returns the text of each API page, by its file."""
    package = load()
    pages = {}
    for module, names in public_names(package).items():
        relative = module.removeprefix(PACKAGE).lstrip(".")
        docstring = (package[relative] if relative else package).docstring
        parts = [f"# {module}", docstring.value if docstring else ""]
        parts += [f"::: {name}" for name in names]
        pages[f"api/{module}.md"] = "\n\n".join(parts) + "\n"
    return pages


def on_config(config: Any) -> Any:
    """Fills the navigation's API section."""
    for section in config.nav:
        if "API" in section:
            section["API"] = list(api_pages())
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the home page and the API pages."""
    readme = (ROOT / "README.md").read_text()
    home = re.sub(r"\]\((?!https?:|#)([^)]+)\)", _from_docs, readme)
    for path, text in {"index.md": home, **api_pages()}.items():
        files.append(File.generated(config, path, content=text))
    return files


def _from_docs(link: re.Match[str]) -> str:
    """Returns a link of README.md as a page in docs/ would write it."""
    target = link[1]
    inside = target.startswith("docs/")
    return f"]({target.removeprefix('docs/') if inside else '../' + target})"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replaces links to files outside docs/ by the files' names."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def name(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = (folder / target.partition("#")[0]).resolve()
        if path.is_relative_to(ROOT / "docs"):
            return link[0]
        if not path.exists():
            raise PluginError(f"{page.file.src_uri} links to {target}: no such file.")
        return text

    return re.sub(r"(?<!!)\[([^\]]+)\]\((\.\./[^)]+)\)", name, markdown)


def on_page_content(text: str, **_: Any) -> str:
    """Turns the mathematics of a page into MathML."""

    def converted(found: re.Match[str]) -> str:
        block = found[1] == "div"
        source = html.unescape(found[2].strip()[2:-2])
        display = "block" if block else "inline"
        return latex2mathml.converter.convert(source, display=display)

    pattern = r'<(span|div) class="arithmatex">(.*?)</\1>'
    return re.sub(pattern, converted, text, flags=re.DOTALL)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Takes the worker of the search from the site instead of from another host."""
    return _with_own_worker(output, "../" * page.file.dest_uri.count("/"))


def on_post_template(output: str, **_: Any) -> str:
    """The same for pages that stand for no Markdown, such as 404.html."""
    return _with_own_worker(output, "/")


def _with_own_worker(output: str, base: str) -> str:
    return output.replace("https://unpkg.com/iframe-worker/shim", f"{base}worker.js")
