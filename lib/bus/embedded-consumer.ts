/** One consumer of the embedded bus: its slots, and the handlers that run in them. */

import type { Claimed } from "./embedded-tables.ts";
import type { ConsumeOptions, Consumer, DeliveryHandler, Settlement } from "./message-bus.ts";

/** What a consumer needs of its bus. */
export interface ConsumerHost {
  /** Resolves when the settlement is stored. A consumer that takes no more leaves a retry to the others at once. */
  settle(claimed: Claimed, settlement: Settlement, isTaking: boolean): Promise<void>;
  /** Returns a delivery that no handler saw. */
  giveBack(claimed: Claimed): Promise<void>;
  /** Forgets the consumer. */
  unregister(consumer: EmbeddedConsumer): Promise<void>;
}

/**
 * States: taking (until `close` or `lost`), then draining, then gone. A slot is free again once its handler has decided;
 * the settlement is stored in the transaction that also claims the next message, or in an earlier one, so that no more
 * than `prefetch` deliveries are ever unsettled.
 */
export class EmbeddedConsumer implements Consumer {
  readonly queue: string;
  readonly queueId: number;
  /** Its row; changes when the bus has to register anew. */
  rowId: number;
  readonly #host: ConsumerHost;
  readonly #handler: DeliveryHandler;
  readonly #options: ConsumeOptions;
  readonly #prefetch: number;
  readonly #underWay = new Set<Promise<void>>();
  #handling = 0;
  #isTaking = true;
  #closed: Promise<void> | undefined;

  constructor(
    host: ConsumerHost,
    place: { readonly queue: string; readonly queueId: number; readonly rowId: number },
    handler: DeliveryHandler,
    options: ConsumeOptions,
    prefetch: number,
  ) {
    this.#host = host;
    this.queue = place.queue;
    this.queueId = place.queueId;
    this.rowId = place.rowId;
    this.#handler = handler;
    this.#options = options;
    this.#prefetch = prefetch;
  }

  /** How many deliveries it can take now. */
  get room(): number {
    return this.#isTaking ? this.#prefetch - this.#handling : 0;
  }

  /** Starts a handler, or returns the delivery when the consumer was closed meanwhile. */
  start(claimed: Claimed): void {
    const work = this.#isTaking ? this.#handle(claimed) : this.#host.giveBack(claimed);
    const tracked = work.finally(() => this.#underWay.delete(tracked));
    this.#underWay.add(tracked);
  }

  /** Ends it from the bus's side. */
  lose(error: Error): void {
    if (!this.#isTaking) return;
    this.#isTaking = false;
    this.#options.onLost?.(error);
  }

  close(): Promise<void> {
    this.#isTaking = false;
    this.#closed ??= this.#drain();
    return this.#closed;
  }

  async #drain(): Promise<void> {
    await Promise.all(this.#underWay);
    await this.#host.unregister(this);
  }

  async #handle(claimed: Claimed): Promise<void> {
    this.#handling += 1;
    const settlement = await this.#decide(claimed);
    this.#handling -= 1;
    await this.#host.settle(claimed, settlement, this.#isTaking);
  }

  async #decide({ delivery }: Claimed): Promise<Settlement> {
    try {
      return await this.#handler(delivery);
    } catch (error) {
      this.#options.onHandlerError?.(error, delivery);
      return "retry";
    }
  }
}
