"""browser.py [--chapters] BOOK [AXE.js [SHOTS]]: look at a book in a headless Chromium, from file://.

For each page, 360 and 1280 pixels wide, light and dark: nothing on the console, nothing wider than
the window, and no fault that the accessibility checker axe finds (contrast and headings among them).
Then the search and the theme button must do their work. SHOTS is a folder for screenshots. --chapters is
for a large book: the pages of chapters only, axe at 1280 in the light and at 360 in the dark.
"""
import os
import sys

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

# What sticks out of the window on the right, outside of boxes that scroll.
OVERFLOW = """
const wide = document.documentElement.clientWidth, out = [];
if (document.documentElement.scrollWidth > wide) out.push('page is ' +
    document.documentElement.scrollWidth + ' wide in ' + wide);
for (const e of document.querySelectorAll('main *')) {
  if (e.getBoundingClientRect().right <= wide + 1) continue;
  let box = e;
  while (box && getComputedStyle(box).overflowX === 'visible') box = box.parentElement;
  if (!box || box === document.body || box === document.documentElement)
    out.push(e.tagName + '.' + e.className + ' sticks out');
}
return out.slice(0, 5);"""

AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations.map(v =>
    v.id + ' (' + v.impact + '): ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 120)).join(' | '))));"""


def start():
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                 "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service("/usr/bin/chromedriver")
    return webdriver.Chrome(options=options, service=service)


def set_window(driver, width, theme):
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "features": [{"name": "prefers-color-scheme", "value": theme}]})


def look(driver, page, width, theme, axe, shots):
    set_window(driver, width, theme)
    driver.get("file://" + page)
    faults = driver.execute_script(OVERFLOW)
    if axe:
        driver.execute_script(axe)
        faults += driver.execute_async_script(AXE)
    faults += [entry["message"] for entry in driver.get_log("browser")]
    if shots:
        name = f"{os.path.basename(page)}-{width}-{theme}.png"
        driver.save_screenshot(os.path.join(shots, name))
    return [f"{page} at {width}, {theme}: {fault}" for fault in faults]


def use(driver, book):
    """Search for a word of a heading, follow the first hit; switch the theme and come back."""
    faults = []
    set_window(driver, 1280, "light")
    driver.get("file://" + os.path.join(book, "index.html"))
    wanted = driver.find_elements(By.CSS_SELECTOR, "main li li a")[-1].text.split()[-1]
    field = driver.find_element(By.ID, "query")
    field.send_keys(wanted)
    driver.implicitly_wait(5)
    hits = driver.find_elements(By.CSS_SELECTOR, ".results li a")
    if not hits or wanted not in " ".join(hit.text for hit in hits):
        faults.append(f"search for '{wanted}' does not find its section")
    else:
        hits[0].click()
        if driver.current_url.endswith("index.html"):
            faults.append("a hit leads nowhere")
    driver.get("file://" + os.path.join(book, "index.html"))
    driver.implicitly_wait(0)
    driver.find_element(By.ID, "query").send_keys("xyzzyxyzzy" + Keys.ENTER)
    before = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    driver.find_element(By.CSS_SELECTOR, ".theme").click()
    after = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    driver.refresh()
    kept = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    if before == after or kept != after:
        faults.append(f"theme button: {before}, then {after}, after a reload {kept}")
    driver.execute_script("localStorage.clear()")
    return faults + [entry["message"] for entry in driver.get_log("browser")]


def main(*words):
    quick = words[:1] == ("--chapters",)
    book, axe_path, shots = (*words[quick:], "", "")[:3]
    book = os.path.abspath(book)
    axe = ""
    if axe_path and os.path.isfile(axe_path):
        with open(axe_path, encoding="utf-8") as f:
            axe = f.read()
    pages = sorted(os.path.join(folder, name) for folder, _, names in os.walk(book)
                   for name in names if name.endswith(".html"))
    if quick:
        pages = [p for p in pages if os.path.dirname(p) == book and os.path.basename(p) != "single.html"]
    driver = start()
    try:
        faults = []
        for page in pages:
            for width, theme in ((360, "light"), (360, "dark"), (1280, "light"), (1280, "dark")):
                with_axe = not quick or (width, theme) in ((360, "dark"), (1280, "light"))
                faults += look(driver, page, width, theme, axe if with_axe else "", shots)
        faults += use(driver, book)
    finally:
        driver.quit()
    print("\n".join(faults) or f"{len(pages)} pages are well, {'with' if axe else 'without'} axe")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
