import { Connection } from "../client.js";
import type { SharedConnection } from "./shared.js";
/** The tab that has the connection. */
export declare class Leader {
    #private;
    shared: SharedConnection;
    connection: Connection;
    /** @param {SharedConnection} shared */
    constructor(shared: SharedConnection);
    close(): void;
    /** @param {{ tab: string, topics: string[], from: string }} want */
    want({ tab, topics, from }: {
        tab: string;
        topics: string[];
        from: string;
    }): void;
    /** @param {string} tab */
    leave(tab: string): void;
}
