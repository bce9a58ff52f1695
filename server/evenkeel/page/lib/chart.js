// Stacked areas over time, drawn with uPlot (vendor/uplot) in the colours of the style sheet.

import { h } from './dom.js';
import * as f from './format.js';

const dark = matchMedia('(prefers-color-scheme: dark)');

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Creates a chart. `series` is `[{key, label, colour}]`, from the bottom upwards; `colour` is a custom property of the
 * style sheet. The chart calls `onHover(index | null)` with the step under the pointer.
 */
export function stackedChart({ series, sync, height = 168, onHover, format = f.rate }) {
  const canvas = h('div', { class: 'chart-canvas' });
  const element = h('div', { class: 'chart', role: 'img', 'aria-label': 'Not read yet' }, canvas);
  let plot = null;
  let drawn = null;

  // Draw the sum of all series first, and smaller sums over it, so that the part of each series stays visible.
  const stack = (columns) => {
    const stacked = [];
    let sum = columns[0].map(() => null);
    for (const column of columns) {
      sum = sum.map((below, at) => (column[at] === null ? null : (below ?? 0) + column[at]));
      stacked.unshift(sum);
    }
    return stacked;
  };

  const options = (width) => {
    const axis = {
      stroke: colour('--muted'), font: '12px system-ui, sans-serif', grid: { stroke: colour('--grid'), width: 1 },
      ticks: { stroke: colour('--grid'), width: 1, size: 4 },
    };
    const stepped = window.uPlot.paths.stepped({ align: 1 });
    return {
      width, height, legend: { show: false }, padding: [8, 18, 0, 0],
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false }, sync: { key: sync } },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(high * 1.12, 0.1)] } },
      axes: [
        { ...axis, size: 28, space: 72, values: (_, ticks) => ticks.map((at) => hour(at * 1000, drawn)) },
        { ...axis, size: 46, space: 32, values: (_, ticks) => ticks.map(format) },
      ],
      series: [{}, ...[...series].reverse().map((one) => ({
        label: one.label, fill: colour(one.colour), width: 0, paths: stepped, points: { show: false },
      }))],
      hooks: { setCursor: [(u) => onHover?.(u.cursor.idx ?? null)] },
    };
  };

  const draw = () => {
    if (!drawn || !canvas.clientWidth || !window.uPlot) return;
    plot?.destroy();
    plot = new window.uPlot(options(canvas.clientWidth), drawn.data, canvas);
  };
  const sized = new ResizeObserver(() => {
    if (plot && canvas.clientWidth) plot.setSize({ width: canvas.clientWidth, height });
    else draw();
  });
  sized.observe(canvas);
  dark.addEventListener('change', draw);

  return {
    element,
    /** Draws `columns`, one for each series, at `times` in ms. `label` describes the chart in words. */
    set(times, columns, label) {
      drawn = { data: [times.map((ms) => ms / 1000), ...stack(columns)], spanMs: times.at(-1) - times[0] };
      element.setAttribute('aria-label', label);
      if (plot) plot.setData(drawn.data);
      else draw();
    },
    destroy() {
      sized.disconnect();
      dark.removeEventListener('change', draw);
      plot?.destroy();
    },
  };
}

function hour(ms, drawn) {
  const text = f.time(ms);
  const short = new Date(ms).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
  return (drawn?.spanMs ?? 0) > 24 * 3_600_000 && short === '00:00' ? text.replace(/,?\s*\d\d:\d\d$/, '') : short;
}
