-- weave.lua: make the book out of chapters (Markdown) and code (files cut into regions).
--
-- pandoc loads this file twice. As a custom reader (-f weave.lua) it reads the chapters and leaves a
-- marker before each block that says where in its file the block begins, because pandoc itself keeps
-- no line numbers. As a filter (-L weave.lua) it does the rest. What it does depends on WEAVE_MODE:
--
--   weave    all chapters at once: check everything, put code and output in, write the list of pages
--   page     cut one page (WEAVE_PAGE) out of the woven book       index    the front page and search index
--   single   the woven book as one page                            source   one source file as a page
--   stamp    write the hashes of its sources into a results file   stale    list results out of date
--   front    the woven book without its chapters: what a page of a source file needs
--
-- book/build.sh calls these in order. Complaints are collected and printed together as
-- "file:line: what is wrong", and any complaint stops the build. book/style.md is the manual for
-- authors: the blocks, the markup, and which numbers may stand in prose.
--
-- pandoc 2.17 brings Lua 5.3 and no directory listing, so build.sh hands over lists of files in
-- environment variables, one name a line. Tables are walked with ipairs, never pairs, wherever their
-- order could reach a page: two builds must be equal byte for byte.

local FORMAT = "markdown-auto_identifiers-raw_html-raw_tex-native_divs-native_spans" ..
               "-example_lists-fancy_lists-line_blocks"
local env = function(name, default) return os.getenv("WEAVE_" .. name) or default end
local MODE, OUT = env("MODE", "weave"), env("OUT", "build/book")
local WORK = env("WORK", "build/book-work")
local stringify, sha1 = pandoc.utils.stringify, pandoc.utils.sha1

-- ---- files ----------------------------------------------------------------------------------------

local function read_file(path)
  local f = io.open(path, "rb")
  local text = f and f:read("a")       -- nil for a folder
  if f then f:close() end
  return text
end

local function write_file(path, text)
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
end

local function split_lines(text)
  local lines = {}
  for line in (text:gsub("\n$", "") .. "\n"):gmatch("(.-)\r?\n") do lines[#lines + 1] = line end
  return lines
end

local line_cache = {}
local function lines_of(path)
  if line_cache[path] == nil then
    local text = read_file(path)
    line_cache[path] = text and split_lines(text) or false
  end
  return line_cache[path] or nil
end

local function env_list(name)
  local list = {}
  for word in env(name, ""):gmatch("[^\n]+") do list[#list + 1] = word end
  return list
end

local function folder_of(path) return path:match("^(.*)/[^/]*$") or "." end
local function is_blank(line) return line:match("^%s*$") ~= nil end

-- "chapters/03-x" and "../../ref/kv.h" make "ref/kv.h"
local function join(folder, path)
  local parts = {}
  for part in (folder .. "/" .. path):gmatch("[^/]+") do
    if part == ".." and #parts > 0 and parts[#parts] ~= ".." then parts[#parts] = nil
    elseif part ~= "." then parts[#parts + 1] = part end
  end
  return table.concat(parts, "/")
end

-- ---- complaints -----------------------------------------------------------------------------------

local complaints = {}
local function complain(file, line, format, ...)
  local order = #complaints + 1
  complaints[order] = { file = file, line = line, text = format:format(...), order = order }
end

local function stop_if_complaints()
  if #complaints == 0 then return end
  table.sort(complaints, function(a, b)
    if a.file ~= b.file then return a.file < b.file end
    if a.line ~= b.line then return a.line < b.line end
    return a.order < b.order
  end)
  for _, c in ipairs(complaints) do
    io.stderr:write(("%s:%d: %s\n"):format(c.file, c.line, c.text))
  end
  io.stderr:write(("%d complaint%s: no book was made.\n"):format(#complaints,
    #complaints == 1 and "" or "s"))
  os.exit(1)
end

-- ---- reading chapters, with the place of every block ----------------------------------------------

-- A marker may go before a line that starts a block at the left margin. Not before what continues
-- or captions something (list items, definitions, table captions, footnotes): a marker would cut it off.
local function may_mark(line)
  return not (is_blank(line) or line:match("^%s") or line:match("^[-*+]%s") or line:match("^%d+[.)]%s")
    or line:match("^:") or line:match("^Table:") or line:match("^%[.-%]:"))
end

-- Is this line the start of a fenced code block? Returns the fence.
local function fence_of(line)
  return line:match("^%s*(```+)[^`]*$") or line:match("^%s*(~~~+)")
end

local function mark(text)
  local out, fence, after_blank = {}, nil, true
  local header = text:match("^%-%-%-\n")
  for n, line in ipairs(split_lines(text)) do
    if header then
      if n > 1 and line:match("^%-%-%-%s*$") or line:match("^%.%.%.%s*$") then header = nil end
    elseif fence then
      local close = line:match("^%s*([`~]+)%s*$")
      if close and close:sub(1, #fence) == fence then fence = nil end
    else
      local opens = fence_of(line)
      if may_mark(line) and (after_blank or opens) then
        out[#out + 1] = ("\n```{=weave}\n%d\n```\n"):format(n)
      end
      fence = opens
    end
    out[#out + 1] = line
    after_blank = not fence and (is_blank(line) or line:match("^#") ~= nil or line:match("^:::") ~= nil)
  end
  return table.concat(out, "\n") .. "\n"
end

function Reader(sources)
  local blocks = pandoc.List()
  for _, source in ipairs(sources) do
    if source.name:match("%.md$") then
      local doc = pandoc.read(mark(source.text), FORMAT)
      blocks:insert(pandoc.Div(doc.blocks, pandoc.Attr("", { "file" }, { { "name", source.name } })))
    end
  end
  return pandoc.Pandoc(blocks)
end

-- Where we are: the file, the line of the last marker, and how far in that block we have read.
local here = { file = "?", line = 1 }

local function arrive(line)
  here.line, here.at, here.column = line, line, 1
end

-- Finds the next occurrence of a text in the source of the block and returns its line.
local function locate(needle, is_number)
  local lines = lines_of(here.file) or {}
  for n = here.at, #lines do
    local from = n == here.at and here.column or 1
    while true do
      local a, b = lines[n]:find(needle, from, true)
      if not a then break end
      local before, after = lines[n]:sub(a - 1, a - 1), lines[n]:sub(b + 1, b + 1)
      if not (is_number and (before:match("[%w.`$]") or after:match("%d"))) then
        here.at, here.column = n, b + 1
        return n
      end
      from = a + 1
    end
  end
  return here.line
end

local function complain_here(needle, format, ...)
  complain(here.file, needle and locate(needle) or here.line, format, ...)
end

-- ---- code: files, regions, hashes -----------------------------------------------------------------

local LANGUAGE = { c = "c", h = "c", cu = "cuda", cuh = "cuda", cpp = "cpp", hpp = "cpp", inc = "c",
                   py = "python", sh = "bash", json = "json", lua = "lua", md = "markdown" }
local function language_of(path)
  if path:match("Makefile$") or path:match("%.mk$") then return "makefile" end
  return LANGUAGE[path:match("%.(%w+)$") or ""]
end

local source = {}        -- path -> { path, regions, [slug] = region }
local source_list = {}

local function columns(line)
  return utf8.len(line) or #line
end

local function check_region(region)
  local last = region.last
  local lines = lines_of(region.file)
  while last > region.line and is_blank(lines[last]) do last = last - 1 end
  if last == region.line then
    complain(region.file, region.line, "region '%s' is empty", region.slug)
  end
  region.first = region.line + 1
  region.text = table.concat(lines, "\n", region.first, last)
end

local function open_region(code, n, slug, title)
  local region = { file = code.path, slug = slug, title = title, line = n }
  if code[slug] then
    complain(code.path, n, "region '%s' is defined twice, first in line %d", slug, code[slug].line)
  else
    code[slug] = region
  end
  code.regions[#code.regions + 1] = region
  return region
end

-- Cuts a file into regions. Only openers exist, so the regions partition the file.
local function cut(path)
  local code = { path = path, regions = {} }
  local lines, region = lines_of(path) or {}, nil
  for n, line in ipairs(lines) do
    local slug, title = line:match("^//@ ([%w-]+): (%S.*)$")
    if slug then
      if region then region.last = n - 1 end
      region = open_region(code, n, slug, title)
    elseif line:match("^//@") then
      complain(path, n, "this is not a region opener: write '//@ slug: Title'")
    elseif not region and n == 1 then
      complain(path, n, "the first line must open a region: '//@ top: Title'")
    end
    if columns(line) > 80 then
      complain(path, n, "line is %d columns wide; 80 fit the page", columns(line))
    elseif line:find("\t", 1, true) then
      complain(path, n, "tab: its width on the page is anybody's guess; use spaces")
    end
  end
  if region then region.last = #lines end
  for _, each in ipairs(code.regions) do check_region(each) end
  source[path] = code
  source_list[#source_list + 1] = code
end

-- C without comments. Strings stay whole, so that "/*" in a string is no comment.
local function strip_comments(text)
  local out, at = {}, 1
  while true do
    local a = text:find("[\"'/]", at)
    if not a then break end
    local b = a
    if text:sub(a, a + 1) == "//" then
      b = (text:find("\n", a, true) or #text + 1) - 1
    elseif text:sub(a, a + 1) == "/*" then
      b = select(2, text:find("*/", a + 2, true)) or #text
    elseif text:sub(a, a) ~= "/" then
      local quote = text:sub(a, a)
      repeat
        b = b + 1
        if text:sub(b, b) == "\\" then b = b + 1 end
      until text:sub(b, b) == quote or text:sub(b, b) == "\n" or b > #text
    end
    out[#out + 1] = text:sub(at, a - 1)
    out[#out + 1] = text:sub(a, a):match("[\"']") and text:sub(a, b) or b > a and " " or "/"
    at = b + 1
  end
  return table.concat(out) .. text:sub(at)
end

-- The hash of a source: for C and CUDA what the compiler sees, so that rewording a comment or a
-- region's title makes no result stale; for anything else every byte.
local function hash_of(path)
  local text = read_file(path)
  if not text then return nil end
  local language = language_of(path)
  if language == "c" or language == "cuda" or language == "cpp" then
    text = strip_comments(text):gsub("%s+", " "):gsub("^ ", ""):gsub(" $", "")
  end
  return sha1(text)
end

-- ---- results: what programs printed ---------------------------------------------------------------

-- Results are text with a header of "# key: value" lines, or JSON with one member a line.
local function parse_text_results(results)
  for n, line in ipairs(results.lines) do
    if not line:match("^#") then results.first = n; break end
    local key, value = line:match("^#%s*(%w+):%s*(.-)%s*$")
    if key == "depends" then
      local file, hash = value:match("^(%S+)%s*(%S*)$")
      table.insert(results.depends, { line = n, file = file or value, hash = hash or "",
        with = "# depends: " .. (file or value) .. " %s" })
    elseif key then
      results[key] = value
    end
  end
end

local function parse_json_results(results)
  local inside = false
  results.first, results.json = 1, true
  for n, line in ipairs(results.lines) do
    local key, value = line:match('^%s*"([^"]+)"%s*:%s*"(.*)",?%s*$')
    if line:match('"depends"%s*:%s*{') then inside = true
    elseif line:match("}") then inside = false
    elseif inside and key then
      table.insert(results.depends, { line = n, file = key, hash = value,
        with = line:gsub("%%", "%%%%"):gsub('"%x*"(,?%s*)$', '"%%s"%1') })
    elseif key == "command" or key == "long" then
      results[key] = value
    end
  end
end

local function parse_results(path)
  local lines = lines_of(path)
  if not lines then return nil end
  local results = { path = path, depends = {}, first = #lines + 1, lines = lines }
  if path:match("%.json$") then parse_json_results(results) else parse_text_results(results) end
  return results
end

-- Calls found(line, text) for each source that is not what it was.
local function each_stale(results, found)
  for _, source_of in ipairs(results.depends) do
    local now = hash_of(source_of.file)
    if not now then
      found(source_of.line, ("depends on '%s', which does not exist"):format(source_of.file))
    elseif now ~= source_of.hash then
      found(source_of.line, ("is stale: '%s' has changed since"):format(source_of.file))
    end
  end
end

local checked = {}
local function results_at(name)
  local path = join(folder_of(here.file), name)
  local results = checked[path] or parse_results(path)
  if results and not checked[path] then
    checked[path] = results
    each_stale(results, function(line, text)
      if results.long == "yes" or env("DRAFT") then results.stale = true
      else complain(path, line, "this result %s: run its program again", text) end
    end)
  end
  return results, path
end

local function fields(line)
  local list = {}
  local pattern = line:find("\t", 1, true) and "[^\t]+" or "%S+"
  for field in line:gmatch(pattern) do list[#list + 1] = field:match("^%s*(.-)%s*$") end
  return list
end

local function json_value(results, key)
  local value, where
  for n, line in ipairs(results.lines) do
    local found = line:match('"' .. key:gsub("%W", "%%%0") .. '"%s*:%s*(.-),?%s*$')
    if found and value then return nil, ("'%s' in lines %d and %d"):format(key, where, n) end
    if found then value, where = found:gsub('^"(.*)"$', "%1"), n end
  end
  if not value then return nil, ("no member '%s'"):format(key) end
  return value
end

-- The value in a row (named by its first word) and, where a column is named too, in that column.
local function value_in(results, row, column)
  if results.json then return json_value(results, row) end
  local found, where
  for n = results.first, #results.lines do
    local line = results.lines[n]
    if fields(line)[1] and fields(line)[1]:gsub("[:=]$", "") == row then
      if found then return nil, ("rows '%s' in lines %d and %d"):format(row, where, n) end
      found, where = line, n
    end
  end
  if not found then return nil, ("no row '%s'"):format(row) end
  if not column then
    return (found:gsub("^%s*%S+%s*[:=]?%s*", ""):gsub("%s+$", ""))
  end
  for i, title in ipairs(fields(results.lines[results.first])) do
    if title == column then
      local value = fields(found)[i]
      if value then return value end
    end
  end
  return nil, ("no column '%s' in row '%s'"):format(column, row)
end

-- ---- pages and links ------------------------------------------------------------------------------

local chapters = {}      -- in order: { folder, number, label, id, page, title, file, line }
local chapter            -- the one being woven
local ids = {}           -- id -> "file:line" where it stands
local promises = {}      -- links to ids, checked when all ids are known
local shown_sources, shown_list = {}, {}   -- files that get a page of their own
local images = {}

local function source_page(path)
  if not shown_sources[path] then
    shown_sources[path] = true
    shown_list[#shown_list + 1] = path
  end
  return "source/" .. path:gsub("/", "-") .. ".html"
end

local function claim(id, line)
  if id == "" then return end
  if ids[id] then
    complain(here.file, line or here.line, "anchor '#%s' is defined twice, first at %s", id, ids[id])
  end
  ids[id] = ("%s:%d"):format(here.file, line or here.line)
end

-- "chapters/03-quantizers" is chapter 3; folders from 90 on are appendices A, B, ... in their order.
local appendices = 0
local function chapter_of(file)
  local folder = folder_of(file)
  for _, each in ipairs(chapters) do
    if each.folder == folder then return each end
  end
  local name = folder:match("([^/]+)$")
  local number = tonumber(name:match("^(%d+)%-"))
  if not number then
    complain(file, 1, "the chapter's folder must be called NN-name")
    number = 0
  end
  if number >= 90 then appendices = appendices + 1 end
  local letter = number >= 90 and string.char(64 + appendices)
  local each = { folder = folder, number = letter or tostring(number), page = name .. ".html",
                 id = "chapter-" .. (letter or ("%02d"):format(number)):lower(), file = file,
                 label = letter and "Appendix " .. letter or "Chapter " .. number,
                 blocks = pandoc.List(), section = {} }
  chapters[#chapters + 1] = each
  return each
end

local function exists(path) return read_file(path) ~= nil end

-- Turns a link as an author writes it (relative to the chapter's file, so that it also works where
-- the repository is browsed) into one within the book.
local function link_target(target)
  if target:match("^%a[%w+.-]*:") then return target end
  local needle = target
  local path, fragment = target:match("^([^#]*)#?(.*)$")
  local line = locate(needle)
  local function promise(id)
    promises[#promises + 1] = { file = here.file, line = line, id = id, target = target }
    return "#" .. id
  end
  if path == "" then return promise(fragment) end
  path = join(folder_of(here.file), path)
  for _, each in ipairs(chapters) do
    if path == each.folder or path:match("^(.*)/%w+%.md$") == each.folder then
      return fragment ~= "" and promise(fragment) or "#" .. each.id
    end
  end
  if source[path] and fragment ~= "" then return promise(path .. ":" .. fragment) end
  if exists(path) then return source_page(path) end
  complain(here.file, line, "dead link: '%s' does not exist", target)
  return target
end

-- ---- numbers in prose -----------------------------------------------------------------------------

local UNITS = {}
for unit in ([[percent ms us ns s sec second seconds minute minutes min hour hours h day days byte bytes
    B kB KB KiB MB MiB GB GiB TB TiB B/s kB/s MB/s GB/s TB/s FLOP FLOPs FLOPS GFLOP GFLOPS TFLOPS
    Hz kHz MHz GHz W watt watts J nat nats dB thousand million billion trillion x k K M G T
    tokens/s tok/s tokens/second]]):gmatch("%S+") do UNITS[unit] = true end
local COMPARED = {}
for word in ("faster slower smaller larger more less fewer bigger as better worse"):gmatch("%S+") do
  COMPARED[word] = true
end

local function plain(word) return (word:gsub("^%W+", ""):gsub("[^%w%%]+$", "")) end

-- Is this number, with what is glued to it and the two words after it, one that needs a source?
local function needs_source(number, rest, next1, next2)
  number = number:gsub(",", "")
  if rest:match("^%-bit") or rest:match("^%-byte") then return false end
  if number:find(".", 1, true) or tonumber(number) > 20 then return true end
  if rest:match("^%%") or UNITS[rest:match("^%-?(%a[%a/]*)") or ""] then return true end
  if rest ~= "" then return false end
  if next1:match("^%%") or UNITS[next1:match("^[%a/]+") or ""] then return true end
  return next1 == "per" and plain(next2) == "cent" or next1 == "times" and COMPARED[plain(next2)]
end

-- Separators that take more than one byte, and two signs with a meaning of their own.
local SIGNS = { ["–"] = " ", ["—"] = " ", ["…"] = " ", ["≈"] = " ", ["≤"] = " ", ["≥"] = " ", ["±"] = " ",
                ["−"] = " ", ["“"] = " ", ["”"] = " ", ["‘"] = " ", ["’"] = " ", ["\u{a0}"] = " ",
                ["→"] = " ", ["×"] = "x", ["µ"] = "u", ["μ"] = "u" }
local function bare_numbers(words, found)
  local pieces = {}
  for _, word in ipairs(words) do
    word = word:gsub("[\xc2-\xf4][\x80-\xbf]+", SIGNS)
    for piece in word:gmatch(word:match("%d") and "[^%s=():;<>~/\"'%[%]]+" or "%S+") do
      pieces[#pieces + 1] = piece
    end
  end
  for i, piece in ipairs(pieces) do
    local core = piece:gsub("^[^%w.]+", "")
    -- a word that begins with a letter is a name: GPT-2, Q4_1, x86-64
    while not core:match("^%a") do
      local number, rest = core:match("^%.?%d[%d,]*%.?%d*"), nil
      if not number then break end
      number = number:gsub("[.,]+$", "")
      rest = core:sub(#number + 1)
      if needs_source(number, rest:gsub("[.,!?*]+$", ""), pieces[i + 1] or "", pieces[i + 2] or "") then
        found(number)
      end
      core = rest:match("%-(%d.*)$") or "a"
    end
  end
end

-- The words of a run of text, cut into sentences; what has a source of its own (code, formulas,
-- program output, years so marked, addresses) leaves a gap.
local ABBREVIATION = { ["e.g."] = true, ["i.e."] = true, ["cf."] = true, ["vs."] = true, ["al."] = true,
                       ["ca."] = true, ["Fig."] = true, ["No."] = true }
local function sentences(inlines)
  local list, sentence, glue = {}, { words = {} }, false
  list[1] = sentence
  local function add(text)
    if glue then sentence.words[#sentence.words] = sentence.words[#sentence.words] .. text
    else sentence.words[#sentence.words + 1] = text end
    glue = true
  end
  local function space()
    local last = sentence.words[#sentence.words] or ""
    if last:match("[.?!][%)\"'”’]*$") and not ABBREVIATION[last] and not last:match("^%u%.$") then
      sentence = { words = {} }
      list[#list + 1] = sentence
    end
    glue = false
  end
  local function walk(items)
    for _, item in ipairs(items) do
      local t = item.t
      if t == "Str" then add(item.text)
      elseif t == "Space" or t == "SoftBreak" or t == "LineBreak" then space()
      elseif t == "Cite" then sentence.cited = true; add("_")
      elseif t == "Code" or t == "Math" or t == "RawInline" then add("_")
      elseif t == "Span" and (item.classes:includes("year") or item.classes:includes("printed")) then add("_")
      elseif t == "Link" and item.classes:includes("uri") then add("_")
      elseif t ~= "Note" and t ~= "Image" and item.content then
        walk(item.content)     -- notes and captions are checked as paragraphs of their own
      end
    end
  end
  walk(inlines)
  return list
end

local function check_numbers(inlines, cited)
  local at, column = here.at, here.column
  here.at, here.column = here.line, 1
  for _, sentence in ipairs(sentences(inlines)) do
    if not (cited or sentence.cited) then
      bare_numbers(sentence.words, function(number)
        local line = locate(number, true)
        complain(here.file, line, "bare number '%s': a measured one comes from output=, " ..
          "a cited one needs [@key] in its sentence, a size goes into $...$ or `...`", number)
      end)
    end
  end
  here.at, here.column = at, column
end

-- ---- inline elements ------------------------------------------------------------------------------

local bibliography = {}
local weave_blocks, weave_inlines

local tex_ok = {}
local function check_math(math)
  if tex_ok[math.text] == nil then
    local one = pandoc.Pandoc({ pandoc.Plain({ pandoc.Math("InlineMath", math.text) }) })
    local html = pandoc.write(one, "html", { html_math_method = "mathml" })
    tex_ok[math.text] = html:match("^%s*<math") ~= nil
  end
  local first = math.text:match("[^\n]+") or ""
  local line = locate(first)
  if not tex_ok[math.text] then
    complain(here.file, line, "this TeX does not become MathML: %s", first)
  end
end

local function weave_image(image, is_figure)
  local line = locate(image.src)
  local path = join(folder_of(here.file), image.src)
  local made = env("BUILD", "build") .. "/" .. path
  local file = exists(path) and path or exists(made) and made
  local alt = image.attributes.alt or not is_figure and stringify(image.caption) or ""
  if is_blank(alt) then
    complain(here.file, line, is_figure and "figure '%s' has no alternative text: {alt=\"...\"}" or
      "image '%s' has no alternative text: ![text](file)", image.src)
  end
  for _, word in ipairs(sentences({ pandoc.Str(alt) })) do
    bare_numbers(word.words, function(number)
      complain(here.file, line, "bare number '%s' in alternative text: say what one sees", number)
    end)
  end
  if image.src:match("^%a+:") then
    complain(here.file, line, "image '%s' comes from elsewhere; the book must work alone", image.src)
  elseif not file then
    complain(here.file, line, "missing image '%s'", image.src)
  else
    local target = "images/" .. path:gsub("^chapters/", ""):gsub("/", "-")
    images[#images + 1] = file .. "\t" .. target
    image.src = target
  end
  image.caption = weave_inlines(image.caption)
  return image
end

-- []{output="results/x.txt row column"} is replaced by what the program wrote there.
local function weave_value(span)
  local name, row, column = table.unpack(fields(span.attributes.output))
  local line = locate(span.attributes.output)
  local results, path = results_at(name or "")
  local value, why
  if not results then why = ("'%s' does not exist"):format(path)
  elseif not row then why = "name a row: output=\"file row column\""
  else value, why = value_in(results, row, column) end
  local form = span.attributes.as
  if value and form then
    local ok, text = pcall(string.format, form, tonumber(value))
    if tonumber(value) and ok then value = text
    else value, why = nil, ("'%s' cannot be printed as '%s'"):format(value, form) end
  end
  if not value then
    complain(here.file, line, "output '%s': %s", span.attributes.output, why)
    value = "?"
  end
  local classes = { "printed" }
  if results and results.stale then classes[2] = "stale" end
  return pandoc.Span({ pandoc.Str(value) }, pandoc.Attr("", classes, { { "title", "printed in " .. path } }))
end

local function weave_inline(item)
  local t = item.t
  if t == "Math" then
    check_math(item)
    -- \mathrm becomes a style that browsers ignore, \text an upright text
    item.text = item.text:gsub("\\mathrm%f[^%a]", "\\text")
    if item.mathtype == "DisplayMath" then
      return pandoc.Span({ item }, pandoc.Attr("", { "display" }))
    end
  elseif t == "Image" then
    return weave_image(item)
  elseif t == "Link" then
    item.target = link_target(item.target)
    if item.target:match("^#$") then complain_here(nil, "link without a target") end
  elseif t == "Cite" then
    for _, citation in ipairs(item.citations) do
      local line = locate("@" .. citation.id)
      if not bibliography[citation.id] then
        complain(here.file, line, "citation key '@%s' is not in the bibliography", citation.id)
      end
    end
    return item
  elseif t == "Span" and item.attributes.output then
    return weave_value(item)
  elseif t == "Span" then
    claim(item.identifier)
  elseif t == "RawInline" then
    complain_here(item.text, "raw %s: the book comes in several forms", item.format)
  elseif t == "Code" and item.text:match("^{%s*%a+%s*=") then
    complain_here(item.text, "these attributes cannot be read; write {name=\"value\"}, no quotes within: %s", item.text)
  elseif t == "Note" then
    item.content = weave_blocks(item.content)
    return item
  end
  if item.content then item.content = weave_inlines(item.content) end
  return item
end

-- A browser may break the line between a formula and the comma after it; keep them together.
local function join_punctuation(out, item)
  local last = out[#out]
  if last and last.t == "Math" and last.mathtype == "InlineMath" and item.t == "Str" and
     item.text:match("^[,.;:!?)]") then
    out[#out] = pandoc.Span({ last, item }, pandoc.Attr("", { "joined" }))
  else
    out:insert(item)
  end
end

function weave_inlines(inlines)
  local out = pandoc.List()
  for _, item in ipairs(inlines) do join_punctuation(out, weave_inline(item)) end
  return out
end

-- ---- listings -------------------------------------------------------------------------------------

local homes = {}          -- "file:slug" -> { chapter, file, line } of the show block
local first_chapter = {}  -- file -> chapter that first shows a region of it

local function test_of(path)
  local base = path:match("([^/]+)%.%w+$")
  if not base or not source[path] then return nil end
  for _, pattern in ipairs({ path:match("^cuda/") and "tests/test_cuda_%s.c" or "tests/test_%s.c",
                             "tests/test_%s.c" }) do
    local test = pattern:format(base)
    if exists(test) then return test end
  end
end

local function code_block(text, language, first, id, label)
  local classes = language and { language } or {}
  local attributes = { { "role", "group" }, { "aria-label", label } }
  if first then
    classes[#classes + 1] = "numberLines"
    attributes[#attributes + 1] = { "startFrom", tostring(first) }
  end
  return pandoc.CodeBlock(text, pandoc.Attr(id and id .. ":line" or "", classes, attributes))
end

-- A listing: caption (title, place, further links), then the code.
local function listing(kind, id, title, links, code)
  local caption = pandoc.List({ pandoc.Span(title, pandoc.Attr("", { "title" })) })
  for _, link in ipairs(links) do
    caption:insert(pandoc.Space())
    caption:insert(link)
  end
  return pandoc.Div({ pandoc.Div({ pandoc.Plain(caption) }, pandoc.Attr("", { "caption" })), code },
                    pandoc.Attr(id or "", { "listing", kind }))
end

local function place_link(path, line)
  return pandoc.Link({ pandoc.Code(line and ("%s:%d"):format(path, line) or path) },
                     source_page(path) .. (line and ("#L-%d"):format(line) or ""), "",
                     pandoc.Attr("", { "place" }))
end

local function chapter_link(text, target)
  return pandoc.Link({ pandoc.Str(text) }, target, "", pandoc.Attr("", { "whence" }))
end

local function find_region(words)
  local path, slug = words[1] or "", words[2] or ""
  if not source[path] then
    complain_here(nil, "unknown file '%s'", path)
  elseif not source[path][slug] then
    complain_here(nil, "no region '%s' in %s", slug, path)
  else
    return source[path][slug], path .. ":" .. slug
  end
end

local function title_of(region)
  return pandoc.utils.blocks_to_inlines(pandoc.read(region.title, "markdown-citations-tex_math_dollars").blocks)
end

local function add_test(links, path)
  local test = test_of(path)
  if test then
    links[#links + 1] = pandoc.Link({ pandoc.Str("test") }, source_page(test), "",
                                    pandoc.Attr("", { "test" }, { { "title", test } }))
  end
end

local function weave_show(words)
  local region, name = find_region(words)
  if not region then return nil end
  if homes[name] then
    complain_here(nil, "region '%s' of %s is shown twice, first at %s:%d", region.slug, region.file,
      homes[name].file, homes[name].line)
    return nil
  end
  homes[name] = { chapter = chapter, file = here.file, line = here.line }
  claim(name)
  local links = { place_link(region.file, region.first) }
  local first = first_chapter[region.file]
  first_chapter[region.file] = first or chapter
  if first and first ~= chapter then
    links[2] = chapter_link("begins in " .. first.label:lower(), "#" .. first.id)
  end
  add_test(links, region.file)
  return listing("show", name, title_of(region), links,
    code_block(region.text, language_of(region.file), region.first, name, region.title))
end

local recalls = 0
local function weave_recall(words)
  local region, name = find_region(words)
  if not region then return nil end
  local home = homes[name]
  if not home then
    complain_here(nil, "recall of region '%s' of %s before it was shown", region.slug, region.file)
    return nil
  end
  recalls = recalls + 1
  local links = { place_link(region.file, region.first) }
  links[2] = chapter_link(home.chapter == chapter and "shown above" or
    "shown in " .. home.chapter.label:lower(), "#" .. name)
  add_test(links, region.file)
  return listing("recall", nil, title_of(region), links,
    code_block(region.text, language_of(region.file), region.first, "recall-" .. recalls, region.title))
end

-- The lines from the first that holds `from` to the next that holds `to`.
local function between(lines, from, to, first)
  local a = first
  if from then
    while a <= #lines and not lines[a]:find(from, 1, true) do a = a + 1 end
  end
  if a > #lines then return nil, ("no line with '%s'"):format(from) end
  local b = to and a or #lines
  if to then
    while b <= #lines and not lines[b]:find(to, 1, true) do b = b + 1 end
    if b > #lines then return nil, ("no line with '%s' after line %d"):format(to, a) end
  end
  return a, b
end

-- The last line of the definition whose first line is n: in Python while lines are indented, in C
-- up to the closing brace in column 1, and what has no brace ends before an empty line.
local function end_of_definition(lines, n)
  local b = n
  if lines[n]:match(":%s*$") then
    while lines[b + 1] and (lines[b + 1]:match("^%s") or lines[b + 1] == "") do b = b + 1 end
    while is_blank(lines[b]) do b = b - 1 end
    return b
  end
  while not lines[b]:find("{", 1, true) do
    if not lines[b + 1] or is_blank(lines[b + 1]) then return b end
    b = b + 1
  end
  if lines[b]:match("}[;,]?%s*$") then return b end
  while lines[b + 1] and not lines[b]:match("^}") do b = b + 1 end
  return b
end

-- The definition of a name: a line that begins in column 1, has the name as a word and is no
-- declaration; with the comment right above it.
local function definition(lines, name, language)
  local found
  local begins = language == "python" and "^[dc][el][fa]" or "^[%a_@]"
  local word = "%f[%w_]" .. name:gsub("%W", "%%%0") .. "%f[^%w_]"
  for n, line in ipairs(lines) do
    if line:match(begins) and not line:match(";%s*$") and line:match(word) then
      if found then return nil, ("'%s' begins in lines %d and %d: use from= and to="):format(name, found, n) end
      found = n
    end
  end
  if not found then return nil, ("no definition of '%s'"):format(name) end
  local a = found
  while a > 1 and (lines[a - 1]:match("^/[/*]") or lines[a - 1]:match("^ %*") or lines[a - 1]:match("^#%s")) do
    a = a - 1
  end
  return a, end_of_definition(lines, found)
end

local function weave_quote(words, block)
  local path, name = words[1] or "", words[2]
  local lines = lines_of(path)
  if not lines then
    complain_here(nil, "quote: file '%s' does not exist", path)
    return nil
  elseif source[path] then
    complain_here(nil, "quote is for files without regions; '%s' wants show or recall", path)
    return nil
  end
  local a, b
  if name then a, b = definition(lines, name, language_of(path))
  else a, b = between(lines, block.attributes.from, block.attributes.to, 1) end
  if not a then
    complain_here(nil, "quote of %s: %s", path, b)
    return nil
  end
  recalls = recalls + 1
  local title = { pandoc.Str(path:match("^tests/") and "From the tests" or "From " .. (path:match("^[^/]+"))) }
  return listing("quote", nil, title, { place_link(path, a) },
    code_block(table.concat(lines, "\n", a, b), language_of(path), a, "quote-" .. recalls, path))
end

local function results_table(lines)
  local rows = {}
  for _, line in ipairs(lines) do
    if not is_blank(line) then rows[#rows + 1] = fields(line) end
  end
  local aligns, widths, body = {}, {}, {}
  for i in ipairs(rows[1]) do
    local numeric = rows[2] and rows[2][i] and tonumber(rows[2][i]:match("^[^%%]*"))
    aligns[i], widths[i] = numeric and "AlignRight" or "AlignLeft", 0
  end
  for r, row in ipairs(rows) do
    local cells = {}
    for i in ipairs(rows[1]) do cells[i] = { pandoc.Plain({ pandoc.Str(row[i] or "") }) } end
    rows[r] = cells
    if r > 1 then body[#body + 1] = cells end
  end
  return pandoc.utils.from_simple_table(pandoc.SimpleTable({}, aligns, widths, rows[1], body))
end

local function weave_output(words, block)
  local results, path = results_at(words[1] or "")
  if not results then
    complain_here(nil, "output file '%s' does not exist", path)
    return nil
  end
  local a, b = between(results.lines, block.attributes.from, block.attributes.to, results.first)
  if not a or a > #results.lines then
    complain_here(nil, "output '%s': %s", path, b or "it has no lines")
    return nil
  end
  local title = pandoc.List({ pandoc.Str("Output") })
  if results.command then
    title:extend({ pandoc.Space(), pandoc.Str("of"), pandoc.Space(), pandoc.Code(results.command) })
  end
  local links = { place_link(path) }
  if results.stale then
    links[2] = pandoc.Span({ pandoc.Str("stale: its sources have changed since") },
                           pandoc.Attr("", { "stale" }))
  end
  local lines = table.move(results.lines, a, b, 1, {})
  local content = block.attributes.as == "table" and results_table(lines) or
    pandoc.CodeBlock(table.concat(lines, "\n"), pandoc.Attr("", { "output" }))
  return listing("output", nil, title, links, content)
end

local KINDS = { { "show", weave_show }, { "recall", weave_recall }, { "quote", weave_quote },
                { "output", weave_output } }

local function weave_code(block)
  for _, kind in ipairs(KINDS) do
    local value = block.attributes[kind[1]]
    if value then
      if not is_blank(block.text) then
        complain_here(nil, "a %s block must be empty: the weaver fills it", kind[1])
      end
      return kind[2](fields(value), block) or pandoc.Null()
    end
  end
  return block
end

-- ---- blocks ---------------------------------------------------------------------------------------

local function slug_of(text)
  return (text:lower():gsub("[^%w%s-]", ""):gsub("%s+", "-"):gsub("^-+", ""):gsub("-+$", ""))
end

local function weave_title(header)
  if chapter.title then
    complain_here(nil, "a second title: only the first heading of a chapter has one #")
  end
  chapter.title, chapter.line = stringify(header.content), here.line
  header.identifier = header.identifier ~= "" and header.identifier or chapter.id
  if header.identifier ~= chapter.id then claim(header.identifier) end
  header.attributes.number = chapter.label
end

-- Headings get numbers (3.1, 3.1.2) and, unless the author gave one, an anchor (c3-some-words).
local function weave_header(header)
  check_numbers(header.content)
  header.content = weave_inlines(header.content)
  local level, section = header.level, chapter.section
  if not chapter.title and level > 1 then
    complain_here(nil, "a chapter begins with its title: # Title")
    chapter.title = "?"
  end
  if level > (chapter.level or 1) + 1 then
    complain_here(nil, "heading of level %d under one of level %d", level, chapter.level or 1)
  end
  chapter.level = level
  if level == 1 then
    weave_title(header)
    return header
  end
  section[level] = (section[level] or 0) + 1
  for deeper = level + 1, 6 do section[deeper] = nil end
  local number = chapter.number
  for l = 2, level do number = number .. "." .. (section[l] or 0) end
  if header.identifier == "" then
    header.identifier = "c" .. chapter.number:lower() .. "-" .. slug_of(stringify(header.content))
  end
  claim(header.identifier)
  header.attributes.number = number
  return header
end

local function weave_text(block)
  local image = block.content[1]
  local alone = #block.content == 1 and image.t == "Image"
  if alone then
    check_numbers(image.caption)
    claim(image.identifier)
    block.content = { weave_image(image, image.title:match("^fig:") ~= nil) }
    return block
  end
  check_numbers(block.content)
  block.content = weave_inlines(block.content)
  return block
end

-- A citation in the caption is the source of all numbers in a table.
local function weave_table(block)
  local cited = false
  for _, part in ipairs(block.caption.long) do
    pandoc.walk_block(part, { Cite = function() cited = true end })
  end
  local function text(each)
    check_numbers(each.content, cited)
    each.content = weave_inlines(each.content)
    return each
  end
  block = pandoc.walk_block(block, { Plain = text, Para = text })
  return pandoc.Div({ block }, pandoc.Attr("", { "table" }))
end

local function map_lists(lists)
  local out = pandoc.List()
  for _, blocks in ipairs(lists) do out:insert(weave_blocks(blocks)) end
  return out
end

local function weave_div(block)
  claim(block.identifier)
  if block.classes:includes("aside") then block.attributes.role = "note" end
  block.content = weave_blocks(block.content)
  if block.classes:includes("hint") then
    return { pandoc.RawBlock("html", "<details class=\"hint\"><summary>Hint</summary>"), block,
             pandoc.RawBlock("html", "</details>") }
  end
  return block
end

local function weave_definitions(items)
  local out = pandoc.List()
  for _, item in ipairs(items) do
    check_numbers(item[1])
    out:insert({ weave_inlines(item[1]), map_lists(item[2]) })
  end
  return out
end

local WEAVE = {
  Para = weave_text, Plain = weave_text, Header = weave_header, CodeBlock = weave_code,
  Table = weave_table, Div = weave_div,
  BlockQuote = function(b) b.content = weave_blocks(b.content); return b end,
  BulletList = function(b) b.content = map_lists(b.content); return b end,
  OrderedList = function(b) b.content = map_lists(b.content); return b end,
  DefinitionList = function(b) b.content = weave_definitions(b.content); return b end,
}

function weave_blocks(blocks)
  local out = pandoc.List()
  for _, block in ipairs(blocks) do
    if block.t == "RawBlock" and block.format == "weave" then
      arrive(tonumber(block.text))
    elseif block.t == "RawBlock" then
      complain_here(nil, "raw %s: the book comes in several forms", block.format)
    else
      local woven = WEAVE[block.t] and WEAVE[block.t](block) or block
      if type(woven) == "table" and woven[1] then out:extend(woven) else out:insert(woven) end
    end
  end
  return out
end

-- ---- the whole book -------------------------------------------------------------------------------

local function read_bibliography(path)
  for key in (read_file(path) or ""):gmatch("@%a+%s*{%s*([^,%s]+)%s*,") do bibliography[key] = true end
end

local function check_shown()
  local unshown, files = 0, {}
  for _, code in ipairs(source_list) do
    for _, region in ipairs(code.regions) do
      local name = code.path .. ":" .. region.slug
      if not homes[name] and code[region.slug] == region then
        unshown = unshown + 1
        if not files[code.path] then files[#files + 1] = code.path; files[code.path] = true end
        if not env("DRAFT") then
          complain(code.path, region.line, "region '%s' is not shown in any chapter", region.slug)
        end
      end
    end
  end
  if env("DRAFT") and unshown > 0 then
    print(("draft: %d region%s in %d file%s not shown yet"):format(unshown, unshown == 1 and "" or "s",
      #files, #files == 1 and " is" or "s are"))
  end
end

local function keep_promises()
  for _, each in ipairs(chapters) do ids[each.id] = ids[each.id] or each.file .. ":1" end
  for _, promise in ipairs(promises) do
    if not ids[promise.id] then
      complain(promise.file, promise.line, "dead link: no anchor '%s' in the book", promise.target)
    end
  end
end

local function write_lists()
  for _, code in ipairs(source_list) do source_page(code.path) end
  table.sort(shown_list)
  table.sort(images)
  local pages, regions = {}, {}
  for _, each in ipairs(chapters) do pages[#pages + 1] = each.page end
  for _, code in ipairs(source_list) do
    for _, region in ipairs(code.regions) do
      local home = homes[code.path .. ":" .. region.slug]
      regions[#regions + 1] = table.concat({ code.path, region.slug, region.line, region.title,
        home and home.chapter.page or "", home and home.chapter.label or "" }, "\t")
    end
  end
  write_file(WORK .. "/pages", table.concat(pages, "\n") .. "\n")
  write_file(WORK .. "/sources", table.concat(shown_list, "\n") .. "\n")
  write_file(WORK .. "/images", table.concat(images, "\n") .. "\n")
  write_file(WORK .. "/regions", table.concat(regions, "\n") .. "\n")
end

local function weave(doc)
  read_bibliography(env("BIB", "book/kvsink.bib"))
  for _, path in ipairs(env_list("SOURCES")) do cut(path) end
  for _, file in ipairs(doc.blocks) do chapter_of(file.attributes.name) end
  for _, file in ipairs(doc.blocks) do
    here.file = file.attributes.name
    chapter = chapter_of(here.file)
    arrive(1)
    chapter.blocks:extend(weave_blocks(file.content))
    if not chapter.title then complain(here.file, 1, "a chapter begins with its title: # Title") end
  end
  check_shown()
  keep_promises()
  stop_if_complaints()
  write_lists()
  local out = pandoc.List()
  for _, each in ipairs(chapters) do
    out:insert(pandoc.Div(each.blocks, pandoc.Attr("", { "chapter" },
      { { "page", each.page }, { "label", each.label }, { "title", each.title } })))
  end
  local references = pandoc.Header(1, { pandoc.Str("References") }, pandoc.Attr("references"))
  out:insert(pandoc.Div({ references, pandoc.Div({}, pandoc.Attr("refs")) }, pandoc.Attr("", { "chapter" },
    { { "page", "references.html" }, { "label", "" }, { "title", "References" } })))
  return pandoc.Pandoc(out, doc.meta)
end

-- ---- pages of the woven book ----------------------------------------------------------------------

-- Where every anchor lives: id -> page.
local function anchors(doc)
  local page_of = {}
  for _, each in ipairs(doc.blocks) do
    local page = each.attributes.page
    local function note(element) if element.identifier ~= "" then page_of[element.identifier] = page end end
    pandoc.walk_block(each, { Header = note, Div = note, Span = note, Image = note })
  end
  return page_of
end

-- Puts the number in front of a heading and moves the levels down by `shift`.
local function number_headings(blocks, shift)
  return pandoc.walk_block(pandoc.Div(blocks), { Header = function(header)
    local number = header.attributes.number
    if number then
      header.attributes.number = nil
      local after = header.level == 1 and ": " or " "
      header.content:insert(1, pandoc.Span({ pandoc.Str(number .. after) }, pandoc.Attr("", { "number" })))
    end
    header.level = header.level + shift
    return header
  end }).content
end

local function link_pages(block, page_of, here_page)
  return pandoc.walk_block(block, { Link = function(link)
    local id = link.target:match("^#(.*)$")
    local page = id and page_of[id]
    if page and page ~= here_page then
      link.target = (page .. "#" .. id)
      if id:match("^chapter%-") or id == "references" then link.target = page end
    end
    return link
  end })
end

local function toc_entry(each)
  local label = each.attributes.label
  return pandoc.Link((label ~= "" and label .. ": " or "") .. each.attributes.title, each.attributes.page)
end

-- The contents as nested lists; sections only of the chapter `open`, or of all of them.
local function contents(doc, open)
  local items = pandoc.List()
  for _, each in ipairs(doc.blocks) do
    local item = pandoc.List({ pandoc.Plain({ toc_entry(each) }) })
    local sections = pandoc.List()
    if open == "all" or open == each.attributes.page then
      pandoc.walk_block(each, { Header = function(header)
        if header.level == 2 then
          local text = (header.attributes.number or "") .. " " .. stringify(header.content)
          sections:insert({ pandoc.Plain({ pandoc.Link(text, each.attributes.page .. "#" .. header.identifier) }) })
        end
      end })
    end
    if #sections > 0 then item:insert(pandoc.BulletList(sections)) end
    items:insert(item)
  end
  return { pandoc.BulletList(items) }
end

local function page_link(each)
  if not each then return nil end
  return pandoc.MetaInlines({ toc_entry(each) })
end

local function one_page(doc)
  local page_of = anchors(doc)
  local wanted = env("PAGE")
  for i, each in ipairs(doc.blocks) do
    if each.attributes.page == wanted then
      local meta = doc.meta
      meta.booktitle = meta.title
      meta.pagetitle = each.attributes.title .. " – " .. stringify(meta.title)
      meta.title = nil
      meta.sidebar = pandoc.MetaBlocks(contents(doc, wanted))
      meta.previous, meta.next = page_link(doc.blocks[i - 1]), page_link(doc.blocks[i + 1])
      local woven = link_pages(each, page_of, wanted)
      return pandoc.Pandoc(number_headings(woven.content, 0), meta)
    end
  end
  error("no page " .. tostring(wanted))
end

-- Paper has no source pages and no colours to tell a caption by.
local function for_paper(doc)
  return pandoc.walk_block(pandoc.Div(doc.blocks), {
    Link = function(link)
      if link.classes:includes("test") then return {} end
      if link.target:match("^source/") then return link.content end
    end,
    Span = function(span)
      if span.classes:includes("title") then return pandoc.Strong(span.content) end
    end,
  }).content
end

local function single_page(doc)
  local blocks = pandoc.List()
  if env("PAPER") then doc.blocks = for_paper(doc) end
  for _, each in ipairs(doc.blocks) do
    blocks:insert(pandoc.Div(number_headings(each.content, env("PAPER") and 0 or 1),
                             pandoc.Attr("", { "chapter" })))
  end
  doc.meta.booktitle = doc.meta.title
  doc.meta.pagetitle = stringify(doc.meta.title) .. " – all in one page"
  -- The contents link within this page.
  local toc = pandoc.walk_block(pandoc.Div(contents(doc, "all")), { Link = function(link)
    local page, id = link.target:match("^([^#]*)#?(.*)$")
    for _, each in ipairs(doc.blocks) do
      if id == "" and each.attributes.page == page then id = each.content[1].identifier end
    end
    link.target = "#" .. id
    return link
  end })
  doc.meta.sidebar = pandoc.MetaBlocks(toc.content)
  return pandoc.Pandoc(blocks, doc.meta)
end

-- ---- search ---------------------------------------------------------------------------------------

local function js_string(text)
  return '"' .. text:gsub("%s+", " "):gsub('[\\"]', "\\%0"):gsub("<", "\\u003c")
                    :gsub("\u{2028}", " "):gsub("%c", " ") .. '"'
end

-- One entry a section: address, chapter, heading, text. A script and not JSON, because a page opened
-- from a file may not fetch, but may load a script that lies beside it.
local function search_index(doc)
  local entries = {}
  for _, each in ipairs(doc.blocks) do
    local a = each.attributes
    local entry
    local function open(header)
      entry = { page = a.page .. (header.level > 1 and "#" .. header.identifier or ""), label = a.label,
                title = (header.level > 1 and header.attributes.number or ""):gsub("$", " ")
                        :gsub("^ ", "") .. stringify(header.content), text = {} }
      entries[#entries + 1] = entry
    end
    for _, block in ipairs(each.content) do
      if block.t == "Header" then open(block)
      elseif entry and block.t ~= "RawBlock" then
        local text = pandoc.walk_block(pandoc.Div({ block }), { Link = function(link)
          if link.classes:includes("place") or link.classes:includes("test") or
             link.classes:includes("whence") then return {} end
        end })
        pandoc.walk_block(text, {
          Plain = function(b) table.insert(entry.text, stringify(b)) end,
          Para = function(b) table.insert(entry.text, stringify(b)) end,
          CodeBlock = function(b) table.insert(entry.text, b.text) end })
      end
    end
  end
  local lines = {}
  for i, e in ipairs(entries) do
    lines[i] = ("[%s,%s,%s,%s]"):format(js_string(e.page), js_string(e.label), js_string(e.title),
      js_string(table.concat(e.text, " ")))
  end
  write_file(OUT .. "/search-index.js", "window.searchIndex = [\n" .. table.concat(lines, ",\n") .. "\n];\n")
end

local function index_page(doc)
  search_index(doc)
  local meta = doc.meta
  meta.booktitle, meta.pagetitle = meta.title, meta.title
  meta.home = true
  local all = pandoc.List({ pandoc.Header(2, "Contents", pandoc.Attr("contents")) })
  all:extend(contents(doc, "all"))
  return pandoc.Pandoc({ pandoc.Div(all, pandoc.Attr("", { "contents" })) }, meta)
end

-- What all pages share: the book without its chapters.
local function front_matter(doc)
  return pandoc.Pandoc({}, doc.meta)
end

-- ---- source files as pages ------------------------------------------------------------------------

local function source_file_page(doc)
  local path = env("PAGE")
  local text = assert(read_file(path), path)
  local blocks = pandoc.List({ pandoc.Header(1, { pandoc.Code(path) }) })
  local items = pandoc.List()
  for line in (read_file(WORK .. "/regions") or ""):gmatch("[^\n]+") do
    local file, slug, number, title, page, label = line:match("^(.-)\t(.-)\t(.-)\t(.-)\t(.-)\t(.-)$")
    if file == path then
      local item = pandoc.List({ pandoc.Link("line " .. number, "#L-" .. number), pandoc.Str(": ") })
      item:extend(title_of({ title = title }))
      if page ~= "" then
        item:extend({ pandoc.Str(", "), pandoc.Link(label:lower(), ("../%s#%s:%s"):format(page, file, slug)) })
      end
      items:insert({ pandoc.Plain(item) })
    end
  end
  if #items > 0 then blocks:insert(pandoc.BulletList(items)) end
  local language = language_of(path)
  local classes = language and { language, "numberLines" } or { "default", "numberLines" }
  blocks:insert(pandoc.CodeBlock(text:gsub("\n$", ""),
    pandoc.Attr("L", classes, { { "role", "group" }, { "aria-label", path } })))
  doc.meta.booktitle = doc.meta.title
  doc.meta.pagetitle = path .. " – " .. stringify(doc.meta.title)
  doc.meta.title = nil
  doc.meta.root = "../"
  return pandoc.Pandoc({ pandoc.Div(blocks, pandoc.Attr("", { "source" })) }, doc.meta)
end

-- ---- results: stamping and checking ---------------------------------------------------------------

-- Writes into "# depends: FILE HASH" lines what the hash is now.
local function stamp()
  for _, path in ipairs(env_list("FILES")) do
    local results = parse_results(path)
    if not results then
      complain(path, 1, "no such results file")
    else
      for _, each in ipairs(results.depends) do
        local hash = hash_of(each.file)
        if not hash then complain(path, each.line, "depends on '%s', which does not exist", each.file)
        else results.lines[each.line] = each.with:format(hash) end
      end
      write_file(path, table.concat(results.lines, "\n") .. "\n")
    end
  end
  stop_if_complaints()
end

local function list_stale()
  local files = env_list("FILES")
  for _, path in ipairs(files) do
    local results = parse_results(path)
    if not results then complain(path, 1, "no such results file")
    else
      each_stale(results, function(line, text) complain(path, line, "this result %s", text) end)
    end
  end
  if #complaints == 0 then print(("%d results files are up to date"):format(#files)) end
  stop_if_complaints()
end

local MODES = { weave = weave, page = one_page, single = single_page, index = index_page, front = front_matter,
                source = source_file_page, stamp = stamp, stale = list_stale }
return { { Pandoc = MODES[MODE] } }
