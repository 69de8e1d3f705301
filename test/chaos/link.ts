/**
 * A TCP link between two processes that can be cut: what one of them believes to be the other's port is this proxy. While it is
 * cut nothing is lost that TCP would not lose either: bytes wait, and arrive when the cut is over and the connection still lives.
 */
import { createServer, connect, type AddressInfo, type Server, type Socket } from "node:net";
import { once } from "node:events";
import type { Cut } from "./plan.ts";

/** How late everything is on a link that is `late`, in milliseconds each way. */
const LATE_MS = 400;

/** One link. */
export class Link {
  readonly #server: Server;
  readonly #target: { readonly host: string; readonly port: number };
  readonly #pairs = new Set<Pair>();
  #cut: Cut | undefined;

  private constructor(server: Server, target: { readonly host: string; readonly port: number }) {
    this.#server = server;
    this.#target = target;
    server.on("connection", (socket) => this.#join(socket));
  }

  /** Opens one to `host:port`, on a free port of its own, or the one given. */
  static async open(target: { readonly host: string; readonly port: number }, port = 0): Promise<Link> {
    // Each direction ends by itself, as it does without us.
    const server = createServer({ allowHalfOpen: true });
    const link = new Link(server, target);
    server.listen(port, "127.0.0.1");
    await once(server, "listening");
    return link;
  }

  /** Where the one side connects to. */
  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Cuts it in one of the ways; {@link heal} ends that. */
  cut(how: Cut): void {
    this.#cut = how;
    for (const pair of this.#pairs) {
      if (how === "reset") pair.reset();
      else pair.flow(how);
    }
  }

  heal(): void {
    this.#cut = undefined;
    for (const pair of this.#pairs) pair.flow(undefined);
  }

  async close(): Promise<void> {
    for (const pair of this.#pairs) pair.reset();
    this.#server.close();
    await once(this.#server, "close");
  }

  #join(near: Socket): void {
    // Nobody listens for it before it has a pair.
    near.on("error", () => undefined);
    if (this.#cut === "reset") {
      near.resetAndDestroy();
      return;
    }
    const pair: Pair = new Pair(near, connect({ ...this.#target, allowHalfOpen: true }), () =>
      this.#pairs.delete(pair),
    );
    this.#pairs.add(pair);
    pair.flow(this.#cut);
  }
}

/** One connection of a link: two sockets, and what flows between them. */
class Pair {
  readonly #near: Socket;
  readonly #far: Socket;
  readonly #onGone: () => void;
  #cut: Cut | undefined;
  /** Directions that are held: from the near side, from the far side. */
  readonly #held = { near: false, far: false };
  readonly #waitingEnds = new Set<() => void>();

  constructor(near: Socket, far: Socket, onGone: () => void) {
    this.#near = near;
    this.#far = far;
    this.#onGone = onGone;
    this.#pipe("near", near, far);
    this.#pipe("far", far, near);
  }

  flow(cut: Cut | undefined): void {
    this.#cut = cut;
    this.#held.near = cut === "silent" || cut === "oneWay";
    this.#held.far = cut === "silent";
    for (const [side, socket] of [
      ["near", this.#near],
      ["far", this.#far],
    ] as const) {
      if (this.#held[side]) socket.pause();
      else socket.resume();
    }
    if (!this.#held.near && !this.#held.far) {
      for (const end of this.#waitingEnds) end();
      this.#waitingEnds.clear();
    }
  }

  reset(): void {
    this.#near.resetAndDestroy();
    this.#far.resetAndDestroy();
    this.#onGone();
  }

  #pipe(side: "near" | "far", from: Socket, to: Socket): void {
    from.setNoDelay(true);
    const pass = (chunk: Buffer): void => {
      if (to.destroyed || to.write(chunk)) return;
      from.pause();
      to.once("drain", () => {
        if (!this.#held[side]) from.resume();
      });
    };
    from.on("data", (chunk) => {
      if (this.#cut === "late") setTimeout(() => pass(chunk), LATE_MS);
      else pass(chunk);
    });
    from.on("end", () => this.#afterCut(() => to.end()));
    from.on("error", () => this.#afterCut(() => to.resetAndDestroy()));
    from.on("close", () => {
      this.#afterCut(() => to.end());
      if (to.destroyed) this.#onGone();
    });
  }

  /** A cut hides also that the other side has gone. */
  #afterCut(end: () => void): void {
    if (this.#held.near || this.#held.far) this.#waitingEnds.add(end);
    else end();
  }
}
