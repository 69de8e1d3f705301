/** The message bus contract for every adapter that this machine can run. */
import { join } from "node:path";
import { test } from "node:test";
import { openMessageBus } from "../../lib/bus/open.ts";
import { skipRabbitMq, startRabbitMq } from "../support/rabbitmq.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { testMessageBusContract } from "./message-bus.contract.ts";

testMessageBusContract("embedded", async () => {
  const url = `embedded:${join(await temporaryFolder(), "bus", "bus.sqlite")}`;
  return { url, open: () => openMessageBus(url), stop: async () => undefined };
});

if (skipRabbitMq !== false) test("The message bus contract, RabbitMQ", { skip: skipRabbitMq });
else {
  testMessageBusContract("RabbitMQ", async () => {
    const server = await startRabbitMq();
    const vhost = await server.vhost();
    return {
      url: vhost.url,
      open: () => openMessageBus(vhost.url),
      restart: async () => server.restart?.(),
      stop: async () => {
        await vhost.remove();
        await server.close();
      },
    };
  });
}
