/**
 * The message bus contract through messaging sidecars: two of them on one bus, as two deployables have them. Handles are opened at
 * one and the other in turn. A restart kills both, and restarts the server behind them where there is one.
 */
import { join } from "node:path";
import { test } from "node:test";
import { openMessageBus } from "../../lib/bus/open.ts";
import { startMessagingSidecar } from "../support/messaging-sidecar.ts";
import { skipRabbitMq, startRabbitMq } from "../support/rabbitmq.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import type { MessageBusUnderTest } from "./message-bus-competition.contract.ts";
import { testMessageBusContract } from "./message-bus.contract.ts";

testMessageBusContract("through sidecars, embedded", async () => {
  const bus = `embedded:${join(await temporaryFolder(), "bus.sqlite")}`;
  return throughSidecars(bus, async () => undefined);
});

if (skipRabbitMq !== false) test("The message bus contract, through sidecars, RabbitMQ", { skip: skipRabbitMq });
else {
  testMessageBusContract("through sidecars, RabbitMQ", async () => {
    const server = await startRabbitMq();
    const vhost = await server.vhost();
    const underTest = await throughSidecars(vhost.url, async () => server.restart?.());
    return {
      ...underTest,
      stop: async () => {
        await underTest.stop();
        await vhost.remove();
        await server.close();
      },
    };
  });
}

async function throughSidecars(bus: string, restartServer: () => Promise<void>): Promise<MessageBusUnderTest> {
  const listen = `unix:${join(await temporaryFolder(), "sidecar.sock")}`;
  let sidecars = [await startMessagingSidecar(bus), await startMessagingSidecar(bus, listen)];
  const urls = sidecars.map(({ url }) => url);
  let opened = 0;
  return {
    url: urls[0]!,
    open: () => openMessageBus(urls[opened++ % urls.length]!),
    restart: async () => {
      await Promise.all(sidecars.map((sidecar) => sidecar.end("SIGKILL")));
      await restartServer();
      sidecars = await Promise.all(urls.map((url) => startMessagingSidecar(bus, url.slice("sidecar:".length))));
    },
    stop: async () => {
      await Promise.all(sidecars.map((sidecar) => sidecar.end()));
    },
  };
}
