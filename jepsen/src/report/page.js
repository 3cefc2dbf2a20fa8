// Tells the figures of the column of time that the pointer is over. The page is whole without it.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const chart = document.getElementById("chart");
  const readout = document.getElementById("readout");
  const box = chart.viewBox.baseVal;
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.id = "cursor";
  line.setAttribute("y1", 0);
  line.setAttribute("y2", box.height);
  line.setAttribute("visibility", "hidden");
  chart.append(line);
  const hide = () => {
    readout.hidden = true;
    line.setAttribute("visibility", "hidden");
  };
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("pointermove", (event) => {
    const place = chart.getBoundingClientRect();
    const along = ((event.clientX - place.left) / place.width - data.left) / data.along;
    if (along < 0 || along >= 1) return hide();
    const [ok, fail, unknown, median, p99] = data.columns[Math.floor(along * data.columns.length)];
    const width = data.seconds / data.columns.length;
    const at = along * data.seconds;
    const faults = data.faults.filter(([, from, to]) => from <= at && at <= to).map(([name]) => name);
    const lines = [
      `${at.toFixed(1)} s${faults.length ? " · " + faults.join(", ") : ""}`,
      `answered ${Math.round(ok / width)}/s · refused or failed ${Math.round(fail / width)}/s · unknown ${Math.round(unknown / width)}/s`,
    ];
    if (median > 0) lines.push(`median ${median} ms · 99th percentile ${p99} ms`);
    readout.textContent = lines.join("\n");
    readout.hidden = false;
    const right = event.clientX > window.innerWidth - 340;
    readout.style.left = `${event.clientX + (right ? -16 - readout.offsetWidth : 16)}px`;
    readout.style.top = `${event.clientY + 14}px`;
    const x = (data.left + along * data.along) * box.width;
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    line.setAttribute("visibility", "visible");
  });
})();
