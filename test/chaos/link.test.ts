import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { after, before, describe, test } from "node:test";
import { eventually } from "../support/eventually.ts";
import { Link } from "./link.ts";

/** Long enough for what would come to have come. */
const QUIET_MS = 150;

/** Answers everything with itself. */
let echo: Server;
const sockets = new Set<Socket>();

before(async () => {
  echo = createServer((socket) => {
    sockets.add(socket.on("error", () => undefined));
    socket.pipe(socket);
  }).listen(0, "127.0.0.1");
  await once(echo, "listening");
});

after(() => {
  for (const socket of sockets) socket.destroy();
  echo.close();
});

describe("a link", () => {
  test("passes everything both ways, and the end", async () => {
    await withLink(async (link) => {
      const { socket, text } = await open(link);
      socket.end("x".repeat(5_000_000));
      await once(socket, "end");
      assert.equal(text().length, 5_000_000);
    });
  });

  test("that is cut silently passes nothing, and later what waited", async () => {
    await withLink(async (link) => {
      const { socket, text } = await open(link);
      link.cut("silent");
      socket.write("hello");
      await sleep(QUIET_MS);
      assert.equal(text(), "");
      assert.equal(socket.destroyed, false);
      link.heal();
      await eventually(() => text() === "hello");
    });
  });

  test("that is cut silently takes new connections, which hear nothing until it is healed", async () => {
    await withLink(async (link) => {
      link.cut("silent");
      const { socket, text } = await open(link);
      socket.write("hello");
      await sleep(QUIET_MS);
      assert.equal(text(), "");
      link.heal();
      await eventually(() => text() === "hello");
    });
  });

  test("that is cut silently hides that the other side has gone, until it is healed", async () => {
    await withLink(async (link) => {
      const { socket } = await open(link);
      await eventually(() => sockets.size > 0);
      link.cut("silent");
      for (const each of sockets) each.destroy();
      await sleep(QUIET_MS);
      assert.equal(socket.destroyed, false);
      link.heal();
      await eventually(() => socket.destroyed);
    });
  });

  test("that is reset ends its connections with an error, and refuses others until it is healed", async () => {
    await withLink(async (link) => {
      const { socket } = await open(link);
      const closed = closing(socket);
      link.cut("reset");
      await closed;
      await closing(connect(link.port, "127.0.0.1").on("error", () => undefined));
      link.heal();
      const { socket: again, text } = await open(link);
      again.write("hello");
      await eventually(() => text() === "hello");
    });
  });

  test("that is cut one way lets out only what comes from the other side", async () => {
    await withLink(async (link) => {
      const { socket, text } = await open(link);
      const far = await eventually(() => [...sockets].at(-1));
      link.cut("oneWay");
      socket.write("lost for now");
      far.write("from afar");
      await eventually(() => text() === "from afar");
      await sleep(QUIET_MS);
      assert.equal(text(), "from afar");
      link.heal();
      await eventually(() => text() === "from afarlost for now");
    });
  });

  test("that is late passes everything, in order", async () => {
    await withLink(async (link) => {
      const { socket, text } = await open(link);
      link.cut("late");
      socket.write("one ");
      socket.write("two");
      await sleep(QUIET_MS);
      assert.equal(text(), "");
      await eventually(() => text() === "one two");
    });
  });
});

async function withLink(work: (link: Link) => Promise<void>): Promise<void> {
  sockets.clear();
  const link = await Link.open({ host: "127.0.0.1", port: (echo.address() as AddressInfo).port });
  try {
    await work(link);
  } finally {
    await link.close();
  }
}

function closing(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.once("close", () => resolve()));
}

/** A connection through the link, and what came back over it. */
async function open(link: Link): Promise<{ readonly socket: Socket; readonly text: () => string }> {
  const socket = connect(link.port, "127.0.0.1").on("error", () => undefined);
  const parts: string[] = [];
  socket.setEncoding("utf8").on("data", (part: string) => parts.push(part));
  await once(socket, "connect");
  return { socket, text: () => parts.join("") };
}
