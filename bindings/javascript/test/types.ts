/** A typed program: compiled by the tests, never run. What must not compile says so. */

import { Control, Frame, Receipt, RefusedError, Subscriber } from "../src/index.js";
import { Preview, show } from "../src/browser.js";

export async function watch(): Promise<void> {
  const frames = new Subscriber("tcp://127.0.0.1:5555", { stream: "live", latest: false, queue: 8, follow: true });
  frames.on("beat", (beat) => beat.fps.toFixed(1));
  // @ts-expect-error there is no such event
  frames.on("frame", () => {});
  for await (const frame of frames) {
    const born: bigint = frame.born;
    const seq: number = frame.seq;
    const elements: Uint8Array | Float32Array | Int32Array = frame.array();
    // @ts-expect-error times of nanoseconds are no numbers
    const wrong: number = frame.sent;
    void [born, seq, elements, wrong];
  }
  const one: Frame | null = await frames.read(100);
  void one;
  // @ts-expect-error there is no such option
  new Subscriber("tcp://127.0.0.1:5555", { newest: true });
}

export async function change(): Promise<number | null> {
  const control = new Control("tcp://127.0.0.1:5570", { timeoutMs: 1000 });
  const receipt: Receipt = control.ramp({ "paint.strength": 0.8 }, { frames: 24, curve: "ease" });
  // @ts-expect-error there is no such curve
  control.ramp({ "paint.strength": 0.8 }, { frames: 24, curve: "bounce" });
  await receipt.done;
  try {
    const { seq } = await control.set({ "paint.steps": 4, "paint.prompt": "a dancer" });
    return seq;
  } catch (error) {
    if (error instanceof RefusedError) console.error(error.problems, error.fix);
    throw error;
  }
}

export async function page(canvas: HTMLCanvasElement): Promise<void> {
  const preview = new Preview(location.href, { codecs: ["jpeg"] });
  await preview.ready;
  await preview.set({ "paint.steps": 4 }).applied;
  await show(preview, canvas, (frame) => console.log(frame.seq, preview.ageOf(frame)));
}
