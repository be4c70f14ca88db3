"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "sendChartToCloud"],
    showSendToCloud: false, // plotly's button that uploads a figure to its maker
    plotlyServerURL: "",
    toImageButtonOptions: { format: "svg", filename: "keras-grow" },
  };

  // --- theme ---------------------------------------------------------------------------------

  const button = document.getElementById("theme");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null; // what the button says; null follows the system

  function theme() {
    return chosen ?? (dark.matches ? "dark" : "light");
  }

  function applyTheme() {
    root.dataset.theme = theme();
    button.setAttribute("aria-pressed", String(theme() === "dark"));
    for (const card of cards) card.restyle();
  }

  button.addEventListener("click", () => {
    chosen = theme() === "dark" ? "light" : "dark";
    applyTheme();
  });
  dark.addEventListener("change", applyTheme);

  // --- figures -------------------------------------------------------------------------------

  class CardView {
    constructor(element, card) {
      this.element = element;
      this.card = card;
      this.plot = element.querySelector(".plot");
      this.path = [];
      this.timer = null;
      this.makeChoices();
      this.player = element.querySelector(".player");
      if (this.player) this.makePlayer();
    }

    // The number of the figure that the selects lead to; missing choices are the first.
    number() {
      let node = this.card.choices;
      let level = 0;
      while (typeof node !== "number") {
        const index = Math.min(this.path[level] ?? 0, node.options.length - 1);
        node = node.options[index][1];
        level += 1;
      }
      return node;
    }

    makeChoices() {
      const box = this.element.querySelector(".choices");
      box.replaceChildren();
      if (data.figures[this.number()].log) {
        const label = document.createElement("label");
        const input = document.createElement("input");
        input.type = "checkbox";
        input.checked = Boolean(this.logarithmic);
        input.addEventListener("change", () => {
          this.logarithmic = input.checked;
          this.draw();
        });
        label.append(input, "logarithmic");
        box.append(label);
      }
      let node = this.card.choices;
      for (let level = 0; typeof node !== "number"; level += 1) {
        const label = document.createElement("label");
        label.append(node.label);
        const select = document.createElement("select");
        for (const [text] of node.options) select.append(new Option(text));
        const index = Math.min(this.path[level] ?? 0, node.options.length - 1);
        select.selectedIndex = index;
        select.dataset.level = String(level);
        select.addEventListener("change", () => {
          this.path[level] = select.selectedIndex;
          this.makeChoices();
          box.querySelector(`[data-level="${level}"]`).focus();
          this.draw();
        });
        label.append(select);
        box.append(label);
        node = node.options[index][1];
      }
    }

    layout() {
      const { figure, log } = data.figures[this.number()];
      return {
        ...structuredClone({ ...figure.layout, ...(this.logarithmic ? log : {}) }),
        template: data.templates[theme()],
        autosize: true,
      };
    }

    draw() {
      this.stop();
      const { figure, title, notes } = data.figures[this.number()];
      this.element.querySelector("h3").textContent = title || this.card.title;
      const words = notes.join(" ");
      this.element.querySelector(".notes").textContent = words;
      this.plot.setAttribute("aria-label", `${title}. ${words}`);
      const frames = figure.frames ?? [];
      this.plot.style.minHeight = `${figure.layout.height}px`;
      return Plotly.newPlot(this.plot, {
        data: structuredClone(figure.data),
        layout: this.layout(),
        frames: structuredClone(frames),
        config,
      }).then(() => {
        this.drawn = true;
        if (this.player) this.showPlayer(frames);
      });
    }

    restyle() {
      if (this.drawn) Plotly.relayout(this.plot, { template: data.templates[theme()] });
    }

    // --- frames ------------------------------------------------------------------------------

    makePlayer() {
      this.range = this.player.querySelector("input");
      this.range.addEventListener("input", () => {
        this.stop();
        this.show(Number(this.range.value));
      });
      this.player.querySelector(".play").addEventListener("click", () => {
        if (this.timer) {
          this.stop();
          return;
        }
        if (Number(this.range.value) >= this.names.length - 1) this.show(0);
        this.timer = setInterval(() => {
          const next = Number(this.range.value) + 1;
          if (next >= this.names.length) this.stop();
          else this.show(next);
        }, 700);
        this.player.querySelector(".play").textContent = "Pause";
      });
    }

    showPlayer(frames) {
      this.names = frames.map((frame) => frame.name);
      this.player.hidden = frames.length < 2;
      if (frames.length < 2) return;
      this.range.max = String(frames.length - 1);
      this.range.value = this.range.max;
      this.tell(frames.length - 1);
    }

    tell(index) {
      const step = Number(this.names[index]).toLocaleString("en");
      this.player.querySelector("output").textContent = step;
      this.range.setAttribute("aria-valuetext", `step ${step}`);
    }

    show(index) {
      this.range.value = String(index);
      this.tell(index);
      return Plotly.animate(this.plot, [this.names[index]], {
        mode: "immediate",
        frame: { duration: 0, redraw: true },
        transition: { duration: 0 },
      });
    }

    stop() {
      if (this.timer) clearInterval(this.timer);
      this.timer = null;
      const play = this.element.querySelector(".play");
      if (play) play.textContent = "Play";
    }
  }

  const cards = [...document.querySelectorAll("[data-card]")].map(
    (element) => new CardView(element, data.cards[element.dataset.card]),
  );
  applyTheme();
  (async () => {
    for (const card of cards) {
      await card.draw();
      await new Promise((resolve) => setTimeout(resolve));
    }
    root.dataset.ready = "true";
  })();

  // --- printing ------------------------------------------------------------------------------

  let before = null;
  window.addEventListener("beforeprint", () => {
    before = chosen;
    chosen = "light";
    applyTheme();
  });
  window.addEventListener("afterprint", () => {
    chosen = before;
    applyTheme();
  });

  // --- table ---------------------------------------------------------------------------------

  const table = document.getElementById("events");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const shown = document.getElementById("shown");
  const told = shown.textContent;
  const heads = [...table.tHead.rows[0].cells];

  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keys = new Map(rows.map((row) => [row, row.cells[column].dataset.key]));
      const numeric = [...keys.values()].every((key) => key !== "" && !Number.isNaN(Number(key)));
      const order = [...rows].sort((a, b) =>
        numeric
          ? Number(keys.get(a)) - Number(keys.get(b))
          : keys.get(a).localeCompare(keys.get(b)),
      );
      body.append(...(down ? order.reverse() : order));
    });
  });

  document.getElementById("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    rows.forEach((row, index) => {
      row.hidden = !words.every((word) => texts[index].includes(word));
      left += row.hidden ? 0 : 1;
    });
    shown.textContent = words.length ? `${left} of ${told}` : told;
  });
})();
