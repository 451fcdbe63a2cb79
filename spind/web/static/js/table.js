// SPDX-License-Identifier: GPL-2.0-or-later
// One table: sorted by any column, searched, shown in pages, updated in place. Knows nothing of what it shows.

import { csv } from "./csv.js";
import { fill, h, plain, sign } from "./dom.js";
import { t } from "./words.js";

/** Rows of a page: as many as are drawn at once, whatever the list has. */
export const PAGE = 100;

/** Rows change places at most this often, in ms, and never under the pointer or the focus. */
const REORDER = 5000;

/**
 * Columns are {key, word, value(row), show?(row), number?, wide?, sort?, csv?}. `value` is what is sorted,
 * searched and saved: text or a number. `show` makes a node or text of it; it is called again only if
 * `stamp(row)`, else the value, changed. `wide` columns are left out on
 * phones, `extra` ones on most screens.
 */
export class Table {
  constructor(element, { name, columns, rows, key, sort, select = null, isSelected = () => false, empty, tools = [] }) {
    Object.assign(this, { element, name, columns, rows, key, select, isSelected, empty });
    this.sort = { ...sort };
    this.text = "";
    this.page = 0;
    this.order = [];
    this.ordered = 0;
    this.lines = new Map();
    this.#build(tools);
  }

  #build(tools) {
    this.search = h("input", {
      type: "search", placeholder: t("list.search"), "aria-label": t("list.search"), "data-testid": "list-search", value: this.text,
      oninput: () => {
        this.text = this.search.value.trim().toLowerCase();
        this.page = 0;
        this.refresh(true);
      },
    });
    this.status = h("span.muted", { role: "status" });
    this.previous = h("button.icon", { type: "button", "aria-label": t("list.previous"), onclick: () => this.#turn(-1) }, "‹");
    this.next = h("button.icon", { type: "button", "aria-label": t("list.next"), onclick: () => this.#turn(1) }, "›");
    const save = h("button.quiet", { type: "button", "data-testid": "export-csv", onclick: () => this.save() }, sign("save"), h("span", {}, t("list.export")));
    this.heads = this.columns.map((column) => {
      if (column.sort === false) return h("th", { scope: "col" }, column.word === "col.do" ? h("span.hidden", {}, t("col.what")) : t(column.word));
      const button = h("button", { type: "button", onclick: () => this.#sortBy(column) }, t(column.word), h("span.arrow", { "aria-hidden": "true" }));
      return h("th", { scope: "col", "aria-sort": "none" }, button);
    });
    this.columns.forEach((column, index) => this.heads[index].classList.add(...classes(column)));
    this.body = h("tbody", {});
    this.nothing = h("p.empty", { hidden: true });
    this.frame = h("div.frame", {}, h("table", { "aria-label": t(`list.${this.name}`) }, h("thead", {}, h("tr", {}, this.heads)), this.body), this.nothing);
    fill(this.element, h("div.tools", {}, this.search, tools, h("span.space"), this.status, this.previous, this.next, save), this.frame);
    this.#mark();
  }

  #turn(step) {
    this.page += step;
    this.frame.scrollTop = 0;
    this.refresh(true);
  }

  #sortBy(column) {
    const down = this.sort.key === column.key ? !this.sort.down : Boolean(column.number);
    this.sort = { key: column.key, down };
    this.page = 0;
    this.#mark();
    this.refresh(true);
  }

  #mark() {
    this.columns.forEach((column, index) => {
      if (column.sort === false) return;
      const is = this.sort.key === column.key;
      this.heads[index].setAttribute("aria-sort", is ? (this.sort.down ? "descending" : "ascending") : "none");
    });
  }

  /** Rows that match what is searched for, in order. */
  matching(rows) {
    const column = this.columns.find((each) => each.key === this.sort.key) ?? this.columns[0];
    const found = this.text
      ? rows.filter((row) => this.columns.some((each) => String(each.words?.(row) ?? each.value(row)).toLowerCase().includes(this.text)))
      : [...rows];
    const values = new Map(found.map((row) => [row, column.value(row)]));
    const way = this.sort.down ? -1 : 1;
    // Ties go the same way: of two things done in one second the later one is the newer.
    return found.sort((one, two) => way * (compare(values.get(one), values.get(two)) || compare(this.key(one), this.key(two))));
  }

  /** Show what there is now; `anew` puts the rows in order at once. */
  refresh(anew = false) {
    const rows = this.rows();
    const calm = !this.body.matches(":hover") && !this.body.contains(document.activeElement);
    const due = anew || !this.order.length || (calm && performance.now() - this.ordered > REORDER);
    const byKey = new Map((rows ?? []).map((row) => [this.key(row), row]));
    if (due || rows === null) {
      this.order = this.matching(rows ?? []).map(this.key);
      this.ordered = performance.now();
    } else {
      // What is new comes at the end, so that nothing moves.
      const known = new Set(this.order);
      const fresh = rows.filter((row) => !known.has(this.key(row)));
      this.order = this.order.filter((key) => byKey.has(key)).concat(this.matching(fresh).map(this.key));
    }
    const pages = Math.max(1, Math.ceil(this.order.length / PAGE));
    this.page = Math.min(Math.max(0, this.page), pages - 1);
    const shown = this.order.slice(this.page * PAGE, (this.page + 1) * PAGE);
    this.#draw(shown.map((key) => byKey.get(key)));
    const total = this.order.length;
    const [from, to] = [this.page * PAGE + 1, this.page * PAGE + shown.length];
    const status = pages > 1 ? t("list.page", { from, to, count: total }) : t("list.rows", { count: total });
    if (this.status.textContent !== status) this.status.textContent = status;
    this.previous.hidden = this.next.hidden = pages === 1;
    this.previous.disabled = this.page === 0;
    this.next.disabled = this.page === pages - 1;
    this.nothing.hidden = total > 0;
    this.frame.firstChild.hidden = total === 0;
    if (!total) this.nothing.textContent = rows === null ? t("list.loading") : t(rows.length ? "list.noMatch" : this.empty);
  }

  #draw(rows) {
    const keys = new Set();
    let place = this.body.firstChild;
    for (const row of rows) {
      const key = this.key(row);
      keys.add(key);
      const line = this.lines.get(key) ?? this.#line(key);
      this.#update(line, row);
      if (line.element !== place) this.body.insertBefore(line.element, place);
      else place = place.nextSibling;
    }
    for (const [key, line] of this.lines) {
      if (keys.has(key)) continue;
      line.element.remove();
      this.lines.delete(key);
    }
  }

  #line(key) {
    const cells = this.columns.map((column) => h("td", { class: classes(column).join(" ") || null }));
    const element = h("tr", { "data-key": key }, cells);
    const line = { element, cells, stamps: [], row: null };
    if (this.select) {
      element.classList.add("choice");
      element.addEventListener("click", (event) => {
        if (!event.target.closest("button, a, input, select")) this.select(line.row);
      });
    }
    this.lines.set(key, line);
    return line;
  }

  #update(line, row) {
    line.row = row;
    this.columns.forEach((column, index) => {
      const stamp = column.stamp ? column.stamp(row) : column.value(row);
      if (line.stamps[index] === stamp) return;
      line.stamps[index] = stamp;
      let content = column.show ? column.show(row) : plain(stamp);
      if (index === 0 && this.select) {
        content = h("button.link", { type: "button", onclick: () => this.select(line.row) }, content);
      }
      fill(line.cells[index], content);
    });
    const chosen = Boolean(this.isSelected(row));
    line.element.classList.toggle("chosen", chosen);
    if (this.select) {
      const button = line.cells[0].firstChild;
      if (chosen) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  /** Bring the chosen row into view, on whichever page it is. */
  reveal() {
    const rows = this.rows() ?? [];
    const chosen = rows.find((row) => this.isSelected(row));
    if (!chosen) return;
    const at = this.order.indexOf(this.key(chosen));
    if (at < 0) return;
    this.page = Math.floor(at / PAGE);
    this.refresh();
    const line = this.lines.get(this.key(chosen));
    const row = line?.element.getBoundingClientRect();
    const frame = this.frame.getBoundingClientRect();
    if (row && (row.top < frame.top + 32 || row.bottom > frame.bottom)) this.frame.scrollTop += row.top - frame.top - frame.height / 2;
  }

  /** The rows that match, all pages of them, as CSV. */
  asCsv() {
    const columns = this.columns.filter((column) => column.word !== "col.do");
    const lines = this.matching(this.rows() ?? []).map((row) => columns.map((column) => (column.csv ?? column.value)(row)));
    return csv([columns.map((column) => t(column.word)), ...lines]);
  }

  save() {
    const address = URL.createObjectURL(new Blob([this.asCsv()], { type: "text/csv;charset=utf-8" }));
    const link = h("a", { href: address, download: `spin-${this.name}.csv`, hidden: true });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
}

const classes = (column) => [column.number && "number", column.wide && "wide", column.extra && "extra", column.word === "col.do" && "do"].filter(Boolean);

function compare(one, two) {
  if (typeof one === "number" && typeof two === "number") return one - two;
  return String(one).localeCompare(String(two), undefined, { numeric: true, sensitivity: "base" });
}
