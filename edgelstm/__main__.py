"""python -m edgelstm"""

from edgelstm.cli import main

main()
