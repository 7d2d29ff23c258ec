/**
 * A browser source for OBS:  node obs.mjs [ENDPOINT] [STREAM] [PORT]
 *
 * Shows a stream that a graph publishes (sink.zmq with encoding = "jpeg" or "png") at http://127.0.0.1:8090/: give OBS that address as a
 * browser source, of the stream's width and height. The page goes transparent while no frames come, and picks the stream up again by itself.
 * PNG mattes (sink.zmq on a Mask) serve as a luma key.
 *
 * Without this program: OBS may also open the preview's own /stream.mjpeg?token=... as the address of a browser source.
 */

import { createServer } from "node:http";

import { Subscriber } from "../src/index.js";

const [endpoint = "tcp://127.0.0.1:5555", stream = "live", port = "8090"] = process.argv.slice(2);
const PAGE = `<!doctype html><meta charset="utf-8"><title>Afterimage</title>
<style>html, body { margin: 0; height: 100%; background: transparent; overflow: hidden } img { width: 100%; height: 100%; object-fit: contain; opacity: 0; transition: opacity .3s }
img.live { opacity: 1 }</style><img id="picture" alt="">
<script>
const picture = document.getElementById("picture");
let seen = -1;
async function next() {
  try {
    const answer = await fetch("frame?after=" + seen, { cache: "no-store" });
    if (answer.status === 200) {
      seen = Number(answer.headers.get("x-n"));
      const url = URL.createObjectURL(await answer.blob());
      picture.src = url;
      await picture.decode().catch(() => {});
      URL.revokeObjectURL(url);
      picture.className = "live";
    } else picture.className = "";
  } catch {
    picture.className = "";
    await new Promise((over) => setTimeout(over, 500));
  }
  requestAnimationFrame(next);
}
next();
</script>`;

const frames = new Subscriber(endpoint, { stream, follow: true });
/** @type {import("../src/index.js").Frame | null} */
let newest = null;
let count = 0;
/** @type {Set<() => void>} */
const waiting = new Set();

const server = createServer(async (request, response) => {
  const own = [`127.0.0.1:${port}`, `localhost:${port}`].includes(request.headers.host ?? ""); // not by another name that points here
  const url = new URL(request.url ?? "/", "http://localhost");
  if (!own || (request.headers["sec-fetch-site"] ?? "none").startsWith("cross")) return void response.writeHead(403).end();
  if (url.pathname === "/") return void response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(PAGE);
  if (url.pathname !== "/frame") return void response.writeHead(404).end();
  if (count === Number(url.searchParams.get("after"))) {
    await new Promise((resolve) => {
      const wake = () => resolve(waiting.delete(wake));
      waiting.add(wake);
      setTimeout(wake, 2000);
    });
  }
  if (!newest || !frames.alive || count === Number(url.searchParams.get("after"))) return void response.writeHead(204).end();
  response.writeHead(200, { "content-type": `image/${newest.enc}`, "cache-control": "no-store", "x-n": String(count) }).end(newest.bytes);
});
server.listen(Number(port), "127.0.0.1", () => console.log(`OBS: add a browser source with http://127.0.0.1:${port}/`));
process.on("SIGINT", () => {
  frames.close();
  server.close();
  server.closeAllConnections();
});

for await (const frame of frames) {
  if (frame.enc !== "jpeg" && frame.enc !== "png") {
    console.error(`${frame.type} as ${frame.enc}: publish it with encoding = "jpeg" or "png"`);
    process.exit(1);
  }
  newest = frame;
  count++;
  for (const wake of [...waiting]) wake();
}
