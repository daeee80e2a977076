document.querySelectorAll(".flame").forEach(flame => {
  const boxes = [...flame.children].map(box => ({ box, x: +box.dataset.x, w: +box.dataset.w, d: +box.dataset.d }));
  const zoom = to => boxes.forEach(({ box, x, w, d }) => {
    const around = x <= to.x + 1e-6 && x + w >= to.x + to.w - 1e-6 && d <= to.d;
    const inside = x >= to.x - 1e-6 && x + w <= to.x + to.w + 1e-6 && d >= to.d;
    box.hidden = !around && !inside;
    box.style.display = box.hidden ? "none" : "";
    box.style.left = around ? "0%" : (x - to.x) / to.w * 100 + "%";
    box.style.width = around ? "100%" : w / to.w * 100 + "%";
  });
  const all = { x: 0, w: 100, d: 0 };
  let now = all;
  const go = one => zoom(now = now === one ? all : one);
  flame.dataset.zoom = "on";
  boxes.forEach(one => {
    one.box.addEventListener("click", () => go(one));
    one.box.addEventListener("keydown", event => { if (event.key === "Enter") go(one); });
  });
});
