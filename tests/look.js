() => { // What is wrong with how a page looks: width, contrast of texts with their ground, texts over each other.
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = colour => { brush.clearRect(0, 0, 1, 1); brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data].map((part, at) => at < 3 ? part : part / 255); };
  const over = (top, ground) => [0, 1, 2].map(at => top[at] * top[3] + ground[at] * (1 - top[3]));
  const grounds = new Map(), ground = element => { if (!grounds.has(element)) grounds.set(element, ground_of(element)); return grounds.get(element); };
  const ground_of = element => { if (!element) return rgba(getComputedStyle(document.documentElement).backgroundColor === "rgba(0, 0, 0, 0)"
      ? "Canvas" : getComputedStyle(document.documentElement).backgroundColor).slice(0, 3);
    return over(rgba(getComputedStyle(element).backgroundColor), ground(element.parentElement)); };
  const light = colour => { const [r, g, b] = colour.map(part => part / 255).map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const problems = [], wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide > 0) problems.push(`scrolls sideways by ${wide} px`);
  const edges = new Map([[document.body, { left: -Infinity, right: Infinity, top: -Infinity, bottom: Infinity }]]);
  const within = (one, two) => ({ left: Math.max(one.left, two.left), right: Math.min(one.right, two.right), top: Math.max(one.top, two.top), bottom: Math.min(one.bottom, two.bottom) });
  const edge = element => { // what can be seen of its content: ancestors that scroll or hide have a width of their own
    if (!edges.has(element)) { const outer = edge(element.parentElement);
      edges.set(element, getComputedStyle(element).overflow === "visible" ? outer : within(outer, element.getBoundingClientRect())); }
    return edges.get(element); };
  const seen = [];
  for (const element of document.querySelectorAll("body *")) {
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    if (!box.width || !box.height || style.visibility === "hidden" || element.closest("svg, script, style") || !element.checkVisibility({ contentVisibilityAuto: true, opacityProperty: true })) continue;
    const words = [...element.childNodes].filter(node => node.nodeType === 3 && node.data.trim());
    if (!words.length) continue;
    const back = ground(element), front = over(rgba(style.color), back), [high, low] = [light(front), light(back)].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05), name = `${element.tagName} "${words[0].data.trim().slice(0, 30)}"`;
    if (contrast < 4.5 && !element.disabled) problems.push(`contrast ${contrast.toFixed(2)} of ${name}`);
    for (const node of words) { const range = document.createRange(); range.selectNodeContents(node);
      for (const whole of range.getClientRects()) { const part = within(whole, edge(element));
        if (part.right <= Math.max(0, part.left) || part.bottom <= part.top) continue; // nothing scrolls to the left of a page
        if (part.right > innerWidth + 1) problems.push(`${name} ends at ${part.right.toFixed()} of ${innerWidth} px`);
        if (style.position !== "sticky" && !element.closest("form, option, textarea")) seen.push([part, name]); } }
  }
  for (let one = 0; one < seen.length; one++) for (let two = one + 1; two < Math.min(seen.length, one + 40); two++) {
    const [a, b] = [seen[one][0], seen[two][0]];
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left), down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 2 && down > 0.6 * Math.min(a.bottom - a.top, b.bottom - b.top)) problems.push(`${seen[one][1]} lies over ${seen[two][1]}`);
  }
  return problems.slice(0, 8);
}
