"""pages.py BOOK SOURCE-FOLDER...: check the HTML of a book without a browser.

Every link, picture, style and script must lie in the book; every anchor must exist and be the only
one of its name on its page; nothing may come from elsewhere; headings go down one level at a time;
and the numbered lines of the listings together must be the source files, each line once.
"""
import html.parser
import os
import re
import sys
import urllib.parse

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.path, self.ids, self.links, self.headings, self.faults = path, set(), [], [], []
        self.shown, self.line, self.open = [], None, []
        with open(path, encoding="utf-8") as f:
            self.feed(f.read())
        if self.open:
            self.faults.append(f"left open: {self.open}")

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in a:
            if a["id"] in self.ids:
                self.faults.append(f"id '{a['id']}' twice")
            self.ids.add(a["id"])
            match = re.fullmatch(r"((?:ref|cuda)/.*):[\w-]+:line-(\d+)", a["id"])
            if match and tag == "span":
                self.line = [match[1], int(match[2]), "", len(self.open)]
        for name in ("href", "src", "action", "poster", "srcset"):
            if name in a:
                self.links.append((tag, a[name]))
        if "style" in a and "url(" in a["style"]:
            self.faults.append("url() in a style")
        if tag == "img" and not a.get("alt", "").strip():
            self.faults.append(f"no alternative text: {a.get('src')}")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        if self.line and len(self.open) == self.line[3]:
            self.shown.append(self.line)
            self.line = None
        if tag not in VOID:
            if not self.open or self.open.pop() != tag:
                self.faults.append(f"</{tag}> closes what is not open")

    def handle_data(self, data):
        if self.line:
            self.line[2] += data


def read_pages(book):
    pages = {}
    for folder, _, names in os.walk(book):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".html"):
                pages[os.path.normpath(path)] = Page(path)
    return pages


def check_link(pages, page, tag, target):
    parts = urllib.parse.urlsplit(target)
    if parts.scheme in ("http", "https", "mailto") and tag == "a":
        return
    if parts.scheme or parts.netloc:
        page.faults.append(f"<{tag}> from elsewhere: {target}")
        return
    path = page.path
    if parts.path:
        path = os.path.join(os.path.dirname(path), urllib.parse.unquote(parts.path))
    path = os.path.normpath(path)
    if not os.path.isfile(path):
        page.faults.append(f"dead link: {target}")
    elif parts.fragment and urllib.parse.unquote(parts.fragment) not in pages[path].ids:
        page.faults.append(f"dead anchor: {target}")


def check_headings(page):
    if page.headings.count(1) != 1 or page.headings[0] != 1:
        page.faults.append(f"not one h1 first: {page.headings}")
    for above, below in zip(page.headings, page.headings[1:]):
        if below > above + 1:
            page.faults.append(f"heading h{below} under h{above}")


def check_shown(shown, folders, where):
    """The listings are the files: each line that is no marker and not blank, once, as it is."""
    faults, once = [], {}
    for path, number, text, _ in shown:
        if (path, number) in once:
            faults.append(f"{path}:{number}: shown twice in {where}")
        once[path, number] = text
    for top in folders:
        for folder, _, names in os.walk(top):
            for name in sorted(names):
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as f:
                    for number, line in enumerate(f.read().split("\n"), 1):
                        wanted = not line.startswith("//@") and line.strip()
                        got = once.pop((path, number), "")
                        if (got or wanted) and got != line:
                            faults.append(f"{path}:{number}: {where} shows {got!r} for {line!r}")
    return faults + [f"{path}:{n}: no such line, in {where}" for path, n in once]


def main(book, *folders):
    pages = read_pages(book)
    faults = []
    for page in pages.values():
        for tag, target in page.links:
            check_link(pages, page, tag, target)
        check_headings(page)
        faults += [f"{page.path}: {fault}" for fault in page.faults]
    single = os.path.normpath(os.path.join(book, "single.html"))
    if folders:
        faults += check_shown(pages[single].shown, folders, "the single page")
        faults += check_shown([line for path, page in pages.items() if path != single
                               for line in page.shown], folders, "the chapters")
    with open(os.path.join(book, "book.css"), encoding="utf-8") as f:
        if re.search(r"@import|url\(", f.read()):
            faults.append("book.css loads something")
    print("\n".join(faults) or f"{len(pages)} pages are sound")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
