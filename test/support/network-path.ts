/** A way through the network that tests can cut, or make swallow everything, and mend: a TCP proxy on a free port. */
import { once } from "node:events";
import { type AddressInfo, type Server, type Socket, connect, createServer } from "node:net";

/**
 * A path is `open`, `cut` (connections break off, new ones are refused by breaking off at once), or `silent`: everything
 * stays connected, new connections too, and not one byte passes: what a pulled cable looks like.
 */
export class NetworkPath {
  readonly port: number;
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #state: "open" | "cut" | "silent" = "open";

  private constructor(server: Server, targetPort: number, targetHost: string) {
    this.#server = server;
    this.port = (server.address() as AddressInfo).port;
    server.on("connection", (socket: Socket) => this.#join(socket, targetPort, targetHost));
  }

  /** Opens a path to a port, of this machine unless another is named. Close it in the end. */
  static async to(targetPort: number, targetHost = "127.0.0.1"): Promise<NetworkPath> {
    const server = createServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
    await once(server, "listening");
    return new NetworkPath(server, targetPort, targetHost);
  }

  /** Connections that go through it now. */
  get connections(): number {
    return this.#pairs.size;
  }

  /** Breaks off everything, until {@link NetworkPath.mend}. */
  cut(): void {
    this.#state = "cut";
    this.#breakOff();
  }

  /** Lets nothing through, until {@link NetworkPath.mend}; what was sent meanwhile passes then. */
  silence(): void {
    this.#state = "silent";
    for (const socket of this.#sockets()) socket.pause();
  }

  /** Lets requests through and no answers, on the connections that there are, until they are cut. */
  swallowAnswers(): void {
    for (const [, far] of this.#pairs) far.pause();
  }

  mend(): void {
    this.#state = "open";
    for (const socket of this.#sockets()) socket.resume();
  }

  /** Mends for new connections only: those that there were stay silent, as behind a firewall that forgot them. */
  forget(): void {
    this.#state = "open";
  }

  async close(): Promise<void> {
    this.#breakOff();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #join(near: Socket, targetPort: number, targetHost: string): void {
    if (this.#state === "cut") return void near.destroy();
    const far = connect(targetPort, targetHost);
    const pair = [near, far] as const;
    this.#pairs.add(pair);
    for (const [socket, other] of [pair, [far, near] as const]) {
      socket.setNoDelay(true);
      socket.on("data", (chunk) => other.write(chunk));
      socket.on("end", () => other.end());
      // The ends of a path that is being cut break as they like.
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        other.destroy();
        this.#pairs.delete(pair);
      });
      if (this.#state === "silent") socket.pause();
      else socket.resume();
    }
  }

  /** Not by `resetAndDestroy`: where a shutdown is under way Node 20 never ends the socket, and spins when the process exits. */
  #breakOff(): void {
    for (const socket of this.#sockets()) socket.destroy();
  }

  #sockets(): Socket[] {
    return [...this.#pairs].flat();
  }
}
