// buttons by name: Plotly's default set includes one that uploads the chart
const CONFIG = {responsive: true, displaylogo: false, plotlyServerURL: '',
  modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']]};
function narrow(layout, width) {  // the legend below the plot, wrapped titles, the names that matter, none cut
  layout.annotations = (layout.annotations || []).filter(label => label.name !== 'minor');
  layout.legend = {...layout.legend, orientation: 'h', x: 0, xanchor: 'left', y: -0.22, yanchor: 'top'};
  layout.legend.title = {...layout.legend.title, side: 'top'};
  layout.legend.font = {size: 11};
  layout.margin = {l: 54, r: 8, t: 110, b: 60, ...layout.margin, ...(layout.margin?.r > 60 ? {r: 60} : {})};
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
    layout.margin.r = Math.min(layout.margin.r * 2.2, 130);
    layout.height += 1.4 * (layout.height - 300);  // each is about as tall as before
  }
  const plot = width - layout.margin.l - layout.margin.r - 16;
  for (const label of layout.annotations) {
    const range = layout[String(label.xref).replace('x', 'xaxis')]?.range;
    if (!range || label.xanchor === 'left') continue;
    const at = (label.x - range[0]) / (range[1] - range[0]) * plot, half = 4 * label.text.length + 3;
    if (label.showarrow === false) label.xanchor = at + half > plot ? 'right' : 'auto';
    else label.ax = Math.max(half - at, Math.min(plot - half - at, label.ax));
  }
  for (const name of Object.keys(layout).filter(name => /^[xy]axis/.test(name)))
    if (layout[name].title?.text) layout[name].title.text = wrapped(layout[name].title.text, 40);
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
    narrow(figure.layout, data.parentElement.clientWidth);
    config.displayModeBar = false;
  }
  Plotly.newPlot(data.previousElementSibling, figure.data, figure.layout, config);
}
