// buttons by name: Plotly's default set includes one that uploads the chart
const CONFIG = {responsive: true, displaylogo: false, plotlyServerURL: '',
  modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']]};
function narrow({layout, data}, width) {  // the legend below the plot, wrapped titles, the names that matter, none cut
  layout.annotations = (layout.annotations || []).filter(label => label.name !== 'minor');
  layout.legend = {...layout.legend, orientation: 'h', x: 0, xanchor: 'left', y: -0.22, yanchor: 'top'};
  layout.legend.title = {...layout.legend.title, side: 'top'};
  layout.legend.font = {size: 11};
  layout.margin = {l: 54, r: 8, t: 120, b: 60};
  layout.height += 140;
  const title = layout.title;
  if (title?.text) title.text = wrapped(title.text, 38);
  if (title?.subtitle?.text) title.subtitle.text = wrapped(title.subtitle.text, 52);
  if (layout.xaxis2?.domain && layout.xaxis?.domain[1] < 1) {  // two panels below each other
    layout.xaxis.domain = layout.xaxis2.domain = [0, 1];
    [layout.yaxis.domain, layout.yaxis2.domain] = [[0.6, 1], [0, 0.4]];
    layout.yaxis2.showticklabels = true;
    layout.annotations.filter(label => label.name === 'heading').forEach(
      (label, place) => Object.assign(label, {x: 0.5, y: [1, 0.4][place]}));
    layout.legend.y = -0.14;
    layout.height += 1.4 * (layout.height - 300);  // each is about as tall as before
  }
  place(layout, data, width - layout.margin.l - layout.margin.r - 16);
  for (const name of Object.keys(layout).filter(name => /^[xy]axis/.test(name)))
    if (layout[name].title?.text)
      layout[name].title.text = layout[name].title.text.split('<br>').map(line => wrapped(line, 36)).join('<br>');
  const lines = (layout.xaxis?.title?.text || '').split('<br>').length;
  layout.legend.y -= 0.05 * Math.max(lines - 2, 0);
}
function place(layout, data, wide) {  // the labels anew: within the plot, clear of points and of each other
  const tall = layout.height - layout.margin.t - layout.margin.b - 100, taken = [];
  const share = (axis, value) => (value - axis.range[0]) / (axis.range[1] - axis.range[0]);
  const labels = layout.annotations.filter(label => label.showarrow !== false
    && label.xref === 'x' && label.yref === 'y' && layout.xaxis.range && layout.yaxis.range);
  const pixels = (x, y) => [share(layout.xaxis, x) * wide, (1 - share(layout.yaxis, y)) * tall];
  const points = labels.length ? data.filter(trace => trace.mode === 'markers' && trace.x?.[0] != null)
    .flatMap(trace => trace.x.map((x, index) => pixels(x, trace.y[index]))) : [];
  for (const label of labels) {
    const half = 3.6 * label.text.length + 4, [x, y] = pixels(label.x, label.y);
    const offsets = [16, 34, 54, 78].flatMap(step => [[half + step - 4, 0], [-half - step + 4, 0], [0, -step], [0, step],
      [half, -step], [half, step], [-half, -step], [-half, step]]);
    const cost = ([dx, dy]) => {
      const hits = (px, py, reach) => Math.abs(px - x - dx) < half + reach && Math.abs(py - y - dy) < 16;
      return 99 * (x + dx - half < 0 || x + dx + half > wide + 8 || y + dy < 8 || y + dy > tall - 8)
        + points.filter(([px, py]) => hits(px, py, 4)).length + taken.filter(([px, py, reach]) => hits(px, py, reach)).length * 3
        + (Math.abs(dx) + Math.abs(dy)) / 400;
    };
    [label.ax, label.ay] = offsets.reduce((best, next) => cost(next) < cost(best) ? next : best);
    label.xanchor = 'center';
    taken.push([x + label.ax, y + label.ay, half]);
  }
  for (const label of layout.annotations)
    if (label.showarrow === false && layout.xaxis.range && label.xref === 'x')
      label.xanchor = share(layout.xaxis, label.x) * wide + 4 * label.text.length > wide ? 'right' : 'auto';
}
function wrapped(text, width) {
  let length = 0;
  return text.split(' ').map(word => {
    length += word.length + 1;
    if (length <= width) return word + ' ';
    length = word.length + 1;
    return '<br>' + word + ' ';
  }).join('').trim();
}
for (const data of document.querySelectorAll('script[type="application/json"]')) {
  const figure = JSON.parse(data.textContent);
  const config = {...CONFIG};
  if (innerWidth < 700) {
    narrow(figure, data.parentElement.clientWidth);
    config.displayModeBar = false;
  }
  Plotly.newPlot(data.previousElementSibling, figure.data, figure.layout, config);
}
