// Draws every plot of the page from the JSON beside it, in the colours of the reader's light or dark setting.
"use strict";

function theme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--line"), linecolor: colour("--soft"), zerolinecolor: colour("--line"),
    ticks: "outside", tickcolor: colour("--soft"), ticklen: 4, showline: true,
  };
  return {
    layout: {
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--text") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: [colour("--text")],
      xaxis: axis, yaxis: axis, hoverlabel: { font: { size: 13 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--text") },
    },
  };
}

const touch = matchMedia("(pointer: coarse)").matches;
const hovers = matchMedia("(hover: hover)").matches;
const webgl = document.createElement("canvas").getContext("webgl") !== null;

function draw(figure) {
  const plot = figure.querySelector(".plot");
  const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
  if (data.some((trace) => trace.type === "parcoords") && !webgl) {
    plot.textContent = "This plot needs WebGL, which this browser does not offer.";
    return undefined;
  }
  layout.template = theme();
  layout.dragmode = touch ? false : "zoom"; // a finger scrolls the page, also over a plot
  const config = {
    responsive: true, displaylogo: false, displayModeBar: hovers ? "hover" : false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  return Plotly.newPlot(plot, data, layout, config);
}

async function drawAll() {
  for (const figure of document.querySelectorAll("figure")) {
    await draw(figure);
    await new Promise((resume) => setTimeout(resume)); // the page stays usable meanwhile
  }
  document.documentElement.dataset.drawn = "yes";
}

drawAll();

// A plot keeps the width it was drawn with: on paper it takes that of its printed cell, and on the screen its own again.
function fit(printing) {
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    const width = printing ? (plot.closest("figure").classList.contains("wide") ? 700 : 340) : undefined;
    Plotly.relayout(plot, { width, autosize: !printing, template: theme() });
  }
}
addEventListener("beforeprint", () => fit(true));
addEventListener("afterprint", () => fit(false));

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(plot, { template: theme() });
});
