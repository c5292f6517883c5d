"""The paper's tables, figures and claims: the runs behind them, and what the runs say."""
